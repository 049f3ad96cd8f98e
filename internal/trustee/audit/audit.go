// SPDX-License-Identifier: Apache-2.0

// Package audit writes down what the trustee decided, about what evidence, under which policy, and why, in an
// append-only chain: each record carries the hash of the one before it, so a record cannot be changed, removed or put
// in between without all later hashes changing; that records were cut off the end, the store notices by its sealed
// note of the last one.
//
// A record is part of the transaction that carries out what it tells of. What is recorded was authenticated, by a
// hardware signature, a token or an administrator's key: see Budget for what follows from that. The package trusts
// the store; it does not protect the chain from one who holds the store's key, which is why owners can fetch it and
// keep the last hash they saw.
package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/kbs"
)

// Record is one record, in the form in which owners get it. Its canonical bytes are its JSON without the member
// "hash", members in the order of the type; Hash is their SHA-256 in hex, and Prev the hash of the record before,
// empty in the first.
type Record = kbs.AuditRecord

// What a record tells of.
const (
	EventAttest  = "attest"
	EventRelease = "release"
	EventAdmin   = "admin"
)

// How it was decided.
const (
	Released = "released" // a resource left
	Refused  = "refused"
	Accepted = "accepted" // evidence became a token
	Changed  = "changed"  // an administrator changed something
)

// Caps of a record's texts, in bytes. What is longer is cut and marked.
const (
	maxText   = 512
	maxDetail = 2048
)

// Append puts a record at the end of the chain and fills in its ID, Prev and Hash.
func Append(tx *store.Tx, r *Record) error {
	return tx.Append(func(id int64, previous []byte) ([]byte, []byte, error) {
		r.ID, r.Prev, r.Hash = id, hex.EncodeToString(previous), ""
		r.Time = r.Time.UTC().Round(0)
		for _, s := range []*string{&r.RequestID, &r.Event, &r.Decision, &r.Code, &r.TEE, &r.Root, &r.Measurement,
			&r.InitData, &r.Resource,
			&r.Policy, &r.TokenID} {
			*s = clean(*s, maxText)
		}
		r.Detail = clean(r.Detail, maxDetail)
		body, err := json.Marshal(r)
		if err != nil {
			return nil, nil, err
		}
		digest := sha256.Sum256(body)
		r.Hash = hex.EncodeToString(digest[:])
		return body, digest[:], nil
	})
}

// clean makes a text survive JSON unchanged (valid UTF-8) and short.
func clean(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}

// List returns at most limit records with ids greater than after, in order.
func List(ctx context.Context, s *store.Store, after int64, limit int) ([]Record, error) {
	entries, err := s.Entries(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	records := make([]Record, len(entries))
	for i, e := range entries {
		if records[i], err = parse(e); err != nil {
			return nil, err
		}
	}
	return records, nil
}

func parse(e store.Entry) (Record, error) {
	var r Record
	if err := json.Unmarshal(e.Body, &r); err != nil {
		return Record{}, fmt.Errorf("parse audit record %d: %w", e.ID, err)
	}
	r.Hash = hex.EncodeToString(e.Digest)
	return r, nil
}

// ErrBroken says that the chain is not what the trustee wrote.
var ErrBroken = errors.New("the audit chain is broken")

// page is how many records Verify reads at a time.
const page = 1000

// Verify walks the whole chain and returns the number of records and the last hash, or an error that wraps ErrBroken
// and names the first record that is wrong.
func Verify(ctx context.Context, s *store.Store) (records int64, head string, err error) {
	// The end is read first: records that come while the chain is walked are beyond it.
	last, lastDigest, err := s.Head(ctx)
	if err != nil {
		return 0, "", err
	}
	previous := ""
	for records < last {
		entries, err := s.Entries(ctx, records, page)
		if err != nil {
			return 0, "", err
		}
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			if records == last {
				break
			}
			if err := check(e, records+1, previous); err != nil {
				return 0, "", err
			}
			records, previous = e.ID, hex.EncodeToString(e.Digest)
		}
	}
	if records != last || previous != hex.EncodeToString(lastDigest) {
		return 0, "", fmt.Errorf("%w: it ends at record %d with hash %.12s, the trustee's last was %d with hash %.12x",
			ErrBroken, records, previous, last, lastDigest)
	}
	return records, previous, nil
}

func check(e store.Entry, id int64, previous string) error {
	r, err := parse(e)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	digest := sha256.Sum256(e.Body)
	switch {
	case e.ID != id || r.ID != id:
		return fmt.Errorf("%w: record %d stands where record %d belongs", ErrBroken, r.ID, id)
	case r.Prev != previous:
		return fmt.Errorf("%w: record %d follows the hash %.12s, not %.12s", ErrBroken, id, r.Prev, previous)
	case hex.EncodeToString(digest[:]) != r.Hash:
		return fmt.Errorf("%w: record %d was changed", ErrBroken, id)
	}
	return nil
}
