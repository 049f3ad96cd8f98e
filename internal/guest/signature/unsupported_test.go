// SPDX-License-Identifier: Apache-2.0

//go:build !containers_image_openpgp

package signature

import "testing"

// TestAttackBuildWithoutVerification has policies that demand signatures, under a build that cannot verify them.
func TestAttackBuildWithoutVerification(t *testing.T) {
	for _, text := range []string{
		`{"default":[{"type":"sigstoreSigned","keyPath":"kbs:///default/key/1"}]}`,
		`{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"quay.io":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"kbs:///default/key/1"}]}}}`,
	} {
		_, err := Parse([]byte(text), nil)
		wantCode(t, err, CodeUnsupported, "-tags containers_image_openpgp")
	}
}
