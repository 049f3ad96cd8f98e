// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/internal/trustee/store"
)

func open(t *testing.T) (*store.Store, store.Options) {
	t.Helper()
	dir := t.TempDir()
	o := store.Options{Dir: filepath.Join(dir, "data"), KeyFile: filepath.Join(dir, "key")}
	s, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, o
}

func write(t *testing.T, s *store.Store, r *Record) {
	t.Helper()
	if err := s.Update(t.Context(), func(tx *store.Tx) error { return Append(tx, r) }); err != nil {
		t.Fatal(err)
	}
}

func record(detail string) *Record {
	return &Record{Time: time.Date(2026, 1, 2, 3, 4, 5, 678, time.FixedZone("", 3600)), RequestID: "r",
		Event: EventRelease, Decision: Refused,
		Code: "policy_denied", TEE: "snp", Simulated: true, Root: "AMD <ARK>", Resource: "a/b/c", Detail: detail}
}

// An owner who has the records can check them without the trustee: the hash is over the JSON without the hash.
func TestOwnersCanCheckTheChain(t *testing.T) {
	s, _ := open(t)
	for i := range 5 {
		write(t, s, record(fmt.Sprint("<&> \u2028 ", i)))
	}
	list, err := List(t.Context(), s, 0, 100)
	if err != nil || len(list) != 5 {
		t.Fatalf("%d records, %v", len(list), err)
	}
	previous := ""
	for i, r := range list {
		hash := r.Hash
		r.Hash = ""
		body, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(body)
		if r.ID != int64(i+1) || r.Prev != previous || hash != hex.EncodeToString(digest[:]) {
			t.Errorf("record %d does not check", i+1)
		}
		previous = hash
	}
	page, err := List(t.Context(), s, 2, 2)
	if err != nil || len(page) != 2 || page[0].ID != 3 || page[1].ID != 4 {
		t.Errorf("page after 2: %v, %v", page, err)
	}
	if n, head, err := Verify(t.Context(), s); err != nil || n != 5 || head != previous {
		t.Errorf("verify: %d, %s, %v", n, head, err)
	}
}

func TestEmptyChainVerifies(t *testing.T) {
	s, _ := open(t)
	if n, head, err := Verify(t.Context(), s); err != nil || n != 0 || head != "" {
		t.Errorf("%d, %q, %v", n, head, err)
	}
}

func TestForeignTextIsCutAndCleaned(t *testing.T) {
	s, _ := open(t)
	r := record(strings.Repeat("x", 10_000))
	r.Resource, r.Code = "bad \xff\xfe utf-8", strings.Repeat("ä", 600)
	write(t, s, r)
	list, err := List(t.Context(), s, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	if got := list[0]; len(got.Detail) > maxDetail+3 || len(got.Code) > maxText+3 ||
		got.Resource != "bad \uFFFD utf-8" {
		t.Errorf("stored: detail %d bytes, code %d bytes, resource %q", len(got.Detail), len(got.Code), got.Resource)
	}
	if _, _, err := Verify(t.Context(), s); err != nil {
		t.Error(err)
	}
}

func TestAttackChangeTheTrail(t *testing.T) {
	body := func(r *Record) string {
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(text)
	}
	forged := record("forged")
	forged.ID = 2
	forgedBody := body(forged)
	raw, _ := hex.DecodeString(forgedBody)
	digest := sha256.Sum256(raw)
	for name, change := range map[string]string{
		"a record changed": `UPDATE log SET body = CAST(replace(CAST(body AS TEXT), 'refused', 'released') AS BLOB) WHERE id = 2`,
		"a record changed, hash fitting": `UPDATE log SET body = x'` + forgedBody + `', digest = x'` +
			hex.EncodeToString(digest[:]) + `' WHERE id = 2`,
		"a record removed":                   `DELETE FROM log WHERE id = 2`,
		"records exchanged":                  `UPDATE log SET id = -1 WHERE id = 1; UPDATE log SET id = 1 WHERE id = 2; UPDATE log SET id = 2 WHERE id = -1`,
		"a record replaced by the one after": `UPDATE log SET body = (SELECT body FROM log WHERE id = 3), digest = (SELECT digest FROM log WHERE id = 3) WHERE id = 2`,
		"a record that is not JSON":          `UPDATE log SET body = x'00' WHERE id = 1`,
	} {
		t.Run(name, func(t *testing.T) {
			s, o := open(t)
			for i := range 4 {
				write(t, s, record(fmt.Sprint(i)))
			}
			db, err := sql.Open("sqlite", filepath.Join(o.Dir, "trustee.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec(change); err != nil {
				t.Fatal(err)
			}
			if _, _, err := Verify(t.Context(), s); !errors.Is(err, ErrBroken) {
				t.Errorf("verify: %v", err)
			}
		})
	}
}

func TestAttackFillTheDiskWithOneReport(t *testing.T) {
	b, err := NewBudget(2, 3, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	spent := func(evidence string, n int) (granted int) {
		for range n {
			if b.Spend(evidence, now) {
				granted++
			}
		}
		return granted
	}
	if got := spent("one report", 1000); got != 3 {
		t.Errorf("%d records of one report", got)
	}
	if got := spent("another", 2); got != 2 {
		t.Errorf("%d of 2 records of another report", got)
	}
	now = now.Add(time.Hour)
	if got := spent("one report", 1000); got != 3 {
		t.Errorf("%d records in the next period", got)
	}
}
