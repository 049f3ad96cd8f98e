// SPDX-License-Identifier: Apache-2.0

//go:build !containers_image_openpgp

package signature

import (
	"context"

	"go.podman.io/image/v5/docker/reference"
)

// Supported says whether this build verifies signatures.
const Supported = false

func unsupported() error {
	return refuse(CodeUnsupported, "this build cannot verify signatures, and therefore takes no policy that demands one: "+
		"build with `make`, or with `go build -tags containers_image_openpgp`")
}

func checkRequirement([]byte) error { return unsupported() }

func checkKeys(string, []byte) error { return unsupported() }

func evaluate(context.Context, []byte, reference.Named, candidate) error { return unsupported() }

func verified(error) bool { return false }

func unpacked([]byte) ([]byte, error) { return nil, unsupported() }

func claimedSimple([]byte) claims { return claims{} }
