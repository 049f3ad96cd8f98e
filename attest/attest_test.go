// SPDX-License-Identifier: Apache-2.0

package attest_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/nacre-project/nacre/attest"
)

func TestKnown(t *testing.T) {
	for tee, want := range map[attest.TEE]bool{
		"snp": true, "tdx": true, "sgx": true, "az-snp-vtpm": true, "az-tdx-vtpm": true, "tpm": true, "cca": true,
		"csv": true, "se": true, "nvidia": true, "hygondcu": true, "sample": true, "sampledevice": true,
		"": false, "SNP": false, "snp ": false, "sev": false,
	} {
		if got := tee.Known(); got != want {
			t.Errorf("%q is known: %v, wanted %v", tee, got, want)
		}
	}
}

func TestError(t *testing.T) {
	refusal := attest.Refuse(attest.CodeEvidenceMalformed, io.ErrUnexpectedEOF, "reading %d bytes", 3)
	wrapped := fmt.Errorf("verifying: %w", refusal)
	if got := attest.CodeOf(wrapped); got != attest.CodeEvidenceMalformed {
		t.Errorf("code %q", got)
	}
	if !errors.Is(wrapped, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
	if got, want := refusal.Error(), "evidence_malformed: reading 3 bytes: unexpected EOF"; got != want {
		t.Errorf("%q, wanted %q", got, want)
	}
	if got := attest.CodeOf(io.EOF); got != "" {
		t.Errorf("an error without a code has %q", got)
	}
	if got := attest.CodeOf(nil); got != "" {
		t.Errorf("no error has code %q", got)
	}
}
