// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"crypto/x509"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/internal/trustee/store"
)

func TestTheCertificateIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	o := store.Options{Dir: filepath.Join(dir, "data"), KeyFile: filepath.Join(dir, "key")}
	s, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	first, missing, err := Load(t.Context(), s, []string{"kbs.example", "10.0.2.2"}, now)
	if err != nil || len(missing) != 0 {
		t.Fatal(missing, err)
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "nacre-trustee", "kbs.example", "10.0.2.2"} {
		if err := first.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if first.Leaf.IsCA || first.Leaf.CheckSignature(x509.ECDSAWithSHA256, first.Leaf.RawTBSCertificate,
		first.Leaf.Signature) != nil {
		t.Error("not a server's certificate signed by its own key")
	}
	s.Close()
	if s, err = store.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	second, missing, err := Load(t.Context(), s, []string{"kbs.example", "other.example"}, now)
	if err != nil || !slices.Equal(missing, []string{"other.example"}) {
		t.Errorf("%v, %v", missing, err)
	}
	if Fingerprint(first) != Fingerprint(second) || !bytes.Equal(PEM(first), PEM(second)) ||
		strings.Contains(string(PEM(first)), "PRIVATE") {
		t.Error("another certificate after a restart")
	}
}
