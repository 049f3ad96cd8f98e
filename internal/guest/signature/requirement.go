// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.podman.io/image/v5/docker/reference"

	"github.com/nacre-project/nacre/kbs"
)

// The types of requirements, containers-policy.json(5) "POLICY REQUIREMENTS".
const (
	typeAccept   = "insecureAcceptAnything"
	typeReject   = "reject"
	typeSignedBy = "signedBy"
	typeSigstore = "sigstoreSigned"
)

// inline are the members that name files, and the members that hold the same as bytes. Requirements have them at
// their top or in one of the members of nested.
var inline = map[string]string{
	"keyPath":             "keyData",
	"keyPaths":            "keyDatas",
	"rekorPublicKeyPath":  "rekorPublicKeyData",
	"rekorPublicKeyPaths": "rekorPublicKeyDatas",
	"caPath":              "caData",
	"caRootsPath":         "caRootsData",
	"caIntermediatesPath": "caIntermediatesData",
}

var nested = []string{"fulcio", "pki"}

// maxKey is the size in bytes of one key, keyring or bundle of certificates.
const maxKey = 1 << 20

// requirement is one element of a scope's list.
type requirement struct {
	kind    string
	members map[string]json.RawMessage
	exact   bool // the signed name must be the user's, with its tag
}

func parseRequirement(raw []byte) (requirement, error) {
	members, err := object(raw)
	if err != nil {
		return requirement{}, err
	}
	r := requirement{members: members}
	if err := json.Unmarshal(members["type"], &r.kind); err != nil {
		return requirement{}, errors.New(`"type" is missing, or is no string`)
	}
	switch r.kind {
	case typeAccept, typeReject:
		if len(members) > 1 {
			return r, fmt.Errorf("%s has no members but its type", r.kind)
		}
		return r, nil
	case typeSignedBy, typeSigstore:
	default:
		return r, fmt.Errorf("the type %q is not known here: use %s, %s, %s or %s", r.kind, typeSigstore, typeSignedBy, typeReject, typeAccept)
	}
	if _, several := members["keyPaths"]; several && r.kind == typeSignedBy {
		return r, errors.New("signedBy takes one keyring, which holds as many keys as you like: put them together and name it in keyPath or keyData")
	}
	if err := r.completeIdentity(); err != nil {
		return r, err
	}
	for _, name := range nested {
		if inner, ok := members[name]; ok {
			part, err := object(inner)
			if err == nil {
				err = prepareKeys(part)
			}
			if err != nil {
				return r, fmt.Errorf("%s: %w", name, err)
			}
			if members[name], err = json.Marshal(part); err != nil {
				return r, err
			}
		}
	}
	if err := prepareKeys(members); err != nil {
		return r, err
	}
	text, err := json.Marshal(members)
	if err != nil {
		return r, err
	}
	return r, checkRequirement(text)
}

// completeIdentity reads how names are compared, and says so where the policy does not.
func (r *requirement) completeIdentity() error {
	raw, ok := r.members["signedIdentity"]
	if !ok {
		if r.kind == typeSigstore {
			r.members["signedIdentity"] = json.RawMessage(`{"type":"matchRepository"}`)
		}
		return nil
	}
	identity, err := object(raw)
	if err != nil {
		return fmt.Errorf("signedIdentity: %w", err)
	}
	var kind string
	if err := json.Unmarshal(identity["type"], &kind); err != nil {
		return errors.New(`signedIdentity: "type" is missing, or is no string`)
	}
	r.exact = kind == "matchExact"
	return nil
}

// prepareKeys refuses paths that are none of the trustee's, and takes keys that are written as PEM: upstream's guest reads keyData so, all
// others read base64, and base64 has no dash.
func prepareKeys(members map[string]json.RawMessage) error {
	for path, data := range inline {
		if err := replace(members, path, path, func(uri string) (string, error) {
			_, err := kbs.ParseResourceURI(uri)
			if err == nil && !strings.HasPrefix(uri, "kbs:///") {
				err = errors.New("it does not begin with kbs:///")
			}
			if err != nil {
				err = fmt.Errorf("%s: %q is no resource of the trustee (kbs:///repository/type/tag), and no file of the guest is the owner's: "+
					"put the key into the trustee, or into the policy itself as %s (base64): %w", path, uri, data, err)
			}
			return uri, err
		}); err != nil {
			return err
		}
		if err := replace(members, data, data, func(text string) (string, error) {
			if strings.HasPrefix(text, "-----BEGIN ") {
				text = base64.StdEncoding.EncodeToString([]byte(text))
			}
			return text, nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// replace moves a member, if it is there, to another name and changes each of its texts: it is a string or a list of strings, and stays what it is.
func replace(members map[string]json.RawMessage, from, to string, change func(string) (string, error)) error {
	raw, ok := members[from]
	if !ok {
		return nil
	}
	delete(members, from)
	var one *string
	if json.Unmarshal(raw, &one) == nil && one != nil {
		text, err := change(*one)
		if err != nil {
			return err
		}
		members[to], err = json.Marshal(text)
		return err
	}
	var list []string
	if json.Unmarshal(raw, &list) != nil || list == nil {
		return fmt.Errorf("%s: neither a string nor a list of strings", from)
	}
	for i := range list {
		var err error
		if list[i], err = change(list[i]); err != nil {
			return err
		}
	}
	var err error
	members[to], err = json.Marshal(list)
	return err
}

// resolved returns the requirement as JSON in which every path has given way to what the trustee has there now.
func (r requirement) resolved(ctx context.Context, keys Keys) (json.RawMessage, error) {
	members := maps.Clone(r.members)
	if err := resolve(ctx, members, keys); err != nil {
		return nil, err
	}
	for _, name := range nested {
		inner, ok := members[name]
		if !ok {
			continue
		}
		part, err := object(inner)
		if err != nil {
			return nil, err
		}
		if err := resolve(ctx, part, keys); err != nil {
			return nil, err
		}
		if members[name], err = json.Marshal(part); err != nil {
			return nil, err
		}
	}
	return json.Marshal(members)
}

func resolve(ctx context.Context, members map[string]json.RawMessage, keys Keys) error {
	for _, path := range slices.Sorted(maps.Keys(inline)) {
		if err := replace(members, path, inline[path], func(uri string) (string, error) {
			key, err := fetchKey(ctx, keys, uri)
			return base64.StdEncoding.EncodeToString(key), err
		}); err != nil {
			return err
		}
	}
	return nil
}

func fetchKey(ctx context.Context, keys Keys, uri string) ([]byte, error) {
	if keys == nil {
		return nil, refuse(CodeKeyUnavailable, "the key %s lies in a trustee, and there is none: put it into the policy as keyData", uri)
	}
	key, err := keys(ctx, uri)
	switch {
	case err != nil:
		return nil, failed(CodeKeyUnavailable, err, "the key %s: see that the trustee has it and releases it to this guest", uri)
	case len(key) == 0 || len(key) > maxKey:
		return nil, refuse(CodeKeyUnavailable, "the key %s has %d bytes, want 1 to %d", uri, len(key), maxKey)
	}
	return key, nil
}

// intended is the name that a signature must be one of: the user's, by tag where names are compared whole, by digest (which
// means by repository) otherwise. That the manifest has the digest was verified before.
func (r requirement) intended(name reference.Canonical) (reference.Named, error) {
	repository := reference.TrimNamed(name)
	if tagged, ok := name.(reference.NamedTagged); ok && r.exact {
		return reference.WithTag(repository, tagged.Tag())
	}
	return reference.WithDigest(repository, name.Digest())
}
