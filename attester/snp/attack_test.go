// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"testing"

	"github.com/nacre-project/nacre/attest"
)

// TestAttackOtherInitData is a host that launches a guest with one init-data and hands it another.
func TestAttackOtherInitData(t *testing.T) {
	other := bytes.Clone(hostData[:])
	other[31] ^= 1
	for name, digest := range map[string][]byte{
		"another digest":      other,
		"none, bound to some": nil,
		"the beginning of it": hostData[:31],
		"zeros":               make([]byte, 32),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.withTSM("sev_guest", nil)
			a, err := f.open(Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := a.BindInitData(t.Context(), digest); attest.CodeOf(err) != attest.CodeInitDataMismatch {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestAttackOldReport is a host that answers with a report of another session.
func TestAttackOldReport(t *testing.T) {
	f := newFake(t)
	f.withTSM("sev_guest", func(_, table []byte) ([]byte, []byte) {
		old, _, err := f.proc.Report([64]byte{7}, 0)
		if err != nil {
			t.Error(err)
		}
		return old, table
	})
	a, err := f.open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if evidence, err := a.Evidence(t.Context(), []byte{1}); err == nil {
		t.Errorf("it became evidence: %s", evidence)
	}
}
