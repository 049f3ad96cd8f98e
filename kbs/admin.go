// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ReleaseOptions are the unsafe choices that a release policy may come with.
type ReleaseOptions struct {
	AllowSimulated    bool // release to tokens whose evidence ended in a simulated root
	UnsafeAnyInitData bool // accept a policy that pins no init-data digest
}

// SetPolicyRequest is the body of POST /kbs/v0/resource-policy and /kbs/v0/attestation-policy. The last two members
// are Nacre's, for resource policies; stock servers skip them.
type SetPolicyRequest struct {
	Type              string `json:"type,omitempty"`      // attestation policy: rego
	PolicyID          string `json:"policy_id,omitempty"` // attestation policy: such as default_cpu
	Policy            string `json:"policy"`              // base64url of the Rego text, without padding
	AllowSimulated    bool   `json:"allow_simulated,omitempty"`
	UnsafeAnyInitData bool   `json:"unsafe_any_initdata,omitempty"`
}

// ReferenceValueMessage is the body of POST /kbs/v0/reference-value.
type ReferenceValueMessage struct {
	Version string `json:"version"` // ReferenceValueVersion
	Type    string `json:"type"`    // sample: the payload is an object, name to value
	Payload string `json:"payload"` // base64 with padding
}

// ReferenceValueVersion and ReferenceValueType are the only ones that are sent.
const (
	ReferenceValueVersion = "0.1.0"
	ReferenceValueType    = "sample"
)

// ReferenceValue is a reference value as it is listed. (GET /nacre/v1/reference-values)
type ReferenceValue struct {
	Name       string          `json:"name"`
	Value      json.RawMessage `json:"value"`
	Expiration time.Time       `json:"expiration,omitzero"`
}

// ResourceInfo is a resource as it is listed, without its value. (GET /nacre/v1/resources)
type ResourceInfo struct {
	Path    string    `json:"path"` // repository/type/tag
	Size    int       `json:"size"` // bytes
	Updated time.Time `json:"updated"`
}

// ResourcePolicy is the release policy in force. (GET /nacre/v1/resource-policy)
type ResourcePolicy struct {
	ID                string `json:"id"`
	Policy            string `json:"policy"` // the Rego text itself
	Digest            string `json:"digest"` // hex SHA-256 of the text
	AllowSimulated    bool   `json:"allow_simulated"`
	UnsafeAnyInitData bool   `json:"unsafe_any_initdata"`
}

// AuditRecord is an entry of the broker's audit trail. Records are chained: Hash covers the record and Prev, which is
// the Hash of the one before.
type AuditRecord struct {
	ID          int64     `json:"id"`
	Time        time.Time `json:"time"`
	RequestID   string    `json:"request_id"`
	Event       string    `json:"event"`    // attest, release or admin
	Decision    string    `json:"decision"` // released, refused, accepted or changed
	Code        string    `json:"code"`     // why refused
	TEE         string    `json:"tee"`
	Simulated   bool      `json:"simulated"`
	Root        string    `json:"root"`        // what the evidence's chain ended in
	Measurement string    `json:"measurement"` // hex
	InitData    string    `json:"init_data"`   // hex
	Resource    string    `json:"resource"`
	Policy      string    `json:"policy"` // id@sha256:… with 12 digits
	TokenID     string    `json:"token_id"`
	Detail      string    `json:"detail"` // what was wanted and got; for the owner only
	Prev        string    `json:"prev"`
	Hash        string    `json:"hash"`
}

// Bodies of the answers under /nacre/v1/.
type (
	// AuditPage answers GET /nacre/v1/audit?after=&limit=.
	AuditPage struct {
		Records []AuditRecord `json:"records"`
	}
	// ResourceList answers GET /nacre/v1/resources?prefix=.
	ResourceList struct {
		Resources []ResourceInfo `json:"resources"`
	}
	// ReferenceValueList answers GET /nacre/v1/reference-values.
	ReferenceValueList struct {
		Values []ReferenceValue `json:"values"`
	}
)

// Admin is an owner's client of one broker. It is safe for concurrent use.
type Admin struct {
	wire  *wire
	token func() (string, error)
}

// NewAdmin makes a client that asks token for a bearer token for each request. It does not connect.
func NewAdmin(config ClientConfig, token func() (string, error)) (*Admin, error) {
	w, err := newWire(config)
	if err != nil {
		return nil, err
	}
	return &Admin{wire: w, token: token}, nil
}

// Close closes idle connections.
func (a *Admin) Close() { a.wire.http.CloseIdleConnections() }

// PutResource stores a value at repository/type/tag, over what was there.
func (a *Admin) PutResource(ctx context.Context, path string, value []byte) error {
	if err := ValidPath(strings.Split(path, "/")); err != nil {
		return err
	}
	if len(value) > MaxPlaintextSize {
		return fmt.Errorf("storing %s: %d bytes, at most %d can be released", path, len(value), MaxPlaintextSize)
	}
	_, err := a.send(ctx, call{method: http.MethodPost, path: apiPrefix + "resource/" + path, body: value})
	return about("storing resource "+path, err)
}

// DeleteResource removes the value at repository/type/tag.
func (a *Admin) DeleteResource(ctx context.Context, path string) error {
	if err := ValidPath(strings.Split(path, "/")); err != nil {
		return err
	}
	_, err := a.send(ctx, call{method: http.MethodDelete, path: apiPrefix + "resource/" + path})
	return about("deleting resource "+path, err)
}

// Resources lists the resources whose paths begin with prefix. Values are not listed; they leave encrypted, and only
// to guests.
func (a *Admin) Resources(ctx context.Context, prefix string) ([]ResourceInfo, error) {
	var list ResourceList
	err := a.get(ctx, adminPrefix+"resources?"+url.Values{"prefix": {prefix}}.Encode(), &list)
	return list.Resources, about("listing resources", err)
}

// SetResourcePolicy replaces the release policy.
func (a *Admin) SetResourcePolicy(ctx context.Context, rego string, options ReleaseOptions) error {
	return about("setting the resource policy", a.post(ctx, apiPrefix+"resource-policy", SetPolicyRequest{
		Policy:            encodeBase64URL([]byte(rego)),
		AllowSimulated:    options.AllowSimulated,
		UnsafeAnyInitData: options.UnsafeAnyInitData,
	}))
}

// ResourcePolicy is the release policy in force.
func (a *Admin) ResourcePolicy(ctx context.Context) (*ResourcePolicy, error) {
	var policy ResourcePolicy
	if err := a.get(ctx, adminPrefix+"resource-policy", &policy); err != nil {
		return nil, about("reading the resource policy", err)
	}
	return &policy, nil
}

// ResourcePolicyIDs lists the ids of the release policies that are set, which is what stock servers tell.
func (a *Admin) ResourcePolicyIDs(ctx context.Context) ([]string, error) {
	var ids []string
	err := a.get(ctx, apiPrefix+"resource-policy", &ids)
	return ids, about("listing resource policies", err)
}

// SetAttestationPolicy replaces the appraisal policy called id, such as default_cpu.
func (a *Admin) SetAttestationPolicy(ctx context.Context, id, rego string) error {
	return about("setting attestation policy "+id, a.post(ctx, apiPrefix+"attestation-policy", SetPolicyRequest{
		Type: "rego", PolicyID: id, Policy: encodeBase64URL([]byte(rego)),
	}))
}

// RegisterReferenceValue sets reference values by name, over what was there. Values are JSON values; most policies
// want lists.
func (a *Admin) RegisterReferenceValue(ctx context.Context, values map[string]any) error {
	payload, err := json.Marshal(values)
	if err != nil {
		return about("registering reference values", err)
	}
	return about("registering reference values", a.post(ctx, apiPrefix+"reference-value", ReferenceValueMessage{
		Version: ReferenceValueVersion, Type: ReferenceValueType, Payload: base64.StdEncoding.EncodeToString(payload),
	}))
}

// ReferenceValue is the JSON value of a reference value. A missing one is a *[StatusError].
func (a *Admin) ReferenceValue(ctx context.Context, id string) (json.RawMessage, error) {
	var value json.RawMessage
	err := a.get(ctx, apiPrefix+"reference-value/"+escapeID(id), &value)
	return value, about("reading reference value "+id, err)
}

// ReferenceValues lists all reference values.
func (a *Admin) ReferenceValues(ctx context.Context) ([]ReferenceValue, error) {
	var list ReferenceValueList
	err := a.get(ctx, adminPrefix+"reference-values", &list)
	return list.Values, about("listing reference values", err)
}

// DeleteReferenceValue removes a reference value.
func (a *Admin) DeleteReferenceValue(ctx context.Context, id string) error {
	_, err := a.send(ctx, call{method: http.MethodDelete, path: adminPrefix + "reference-value/" + escapeID(id)})
	return about("deleting reference value "+id, err)
}

// Audit reads the audit trail: at most limit records, in order, that come after the one with id after.
func (a *Admin) Audit(ctx context.Context, after int64, limit int) ([]AuditRecord, error) {
	query := url.Values{"after": {strconv.FormatInt(after, 10)}, "limit": {strconv.Itoa(limit)}}
	var page AuditPage
	err := a.get(ctx, adminPrefix+"audit?"+query.Encode(), &page)
	return page.Records, about("reading the audit trail", err)
}

// escapeID keeps the slashes that names of reference values may have.
func escapeID(id string) string {
	parts := strings.Split(id, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

func (a *Admin) get(ctx context.Context, path string, into any) error {
	got, err := a.send(ctx, call{method: http.MethodGet, path: path})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(got.body, into); err != nil {
		return fmt.Errorf("the broker's answer: %w", err)
	}
	return nil
}

func (a *Admin) post(ctx context.Context, path string, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	_, err = a.send(ctx, call{method: http.MethodPost, path: path, json: true, body: body})
	return err
}

// send adds a token and retries what failed in transit; all requests of an administrator may be sent twice.
func (a *Admin) send(ctx context.Context, c call) (got *answer, err error) {
	err = a.wire.retry(ctx, func() error {
		if c.token, err = a.token(); err != nil {
			return permanentError{fmt.Errorf("making an admin token: %w", err)}
		}
		got, err = a.wire.once(ctx, c)
		return err
	})
	var status *StatusError
	if errors.As(err, &status) && (status.Status == http.StatusUnauthorized || status.Status == http.StatusForbidden) {
		return nil, fmt.Errorf(
			"%w; is this the admin key that belongs to %s, and does its role allow this?",
			err,
			a.wire.base,
		)
	}
	return got, err
}

// about says what was being done when err, if any, happened.
func about(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
