// SPDX-License-Identifier: Apache-2.0

package signer_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/attest/snp"
)

// platform is one for all tests of the package: making its keys takes seconds.
var platform = sync.OnceValues(func() (*signer.Platform, error) {
	dir, err := os.MkdirTemp("", "nacre-platform-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	return signer.Open(filepath.Join(dir, "platform"))
})

func testPlatform(t testing.TB) *signer.Platform {
	t.Helper()
	p, err := platform()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEvidenceVerifies(t *testing.T) {
	p := testPlatform(t)
	launch := signer.Launch{Measurement: [48]byte{1, 2, 3}, HostData: [32]byte{4, 5, 6}}
	evidence, err := p.Launch(launch).Evidence([]byte("bound to this"))
	if err != nil {
		t.Fatal(err)
	}
	v := snp.NewVerifier(snp.Config{Roots: []snp.Root{p.Root()}})
	claims, err := v.Verify(t.Context(), evidence, attest.Expected{
		ReportData: []byte("bound to this"), InitDataDigest: []byte{4, 5, 6},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !claims.Simulated {
		t.Error("the claims do not say that the platform is simulated")
	}
	t.Logf("%+v", claims)
}
