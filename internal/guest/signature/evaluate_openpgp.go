// SPDX-License-Identifier: Apache-2.0

//go:build containers_image_openpgp

package signature

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	openpgp "github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"go.podman.io/image/v5/directory"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/image"
	policies "go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

// Supported says whether this build verifies signatures.
const Supported = true

// alone is a policy of one requirement.
func alone(requirement []byte) (*policies.Policy, error) {
	text, err := json.Marshal(map[string][]json.RawMessage{"default": {requirement}})
	if err != nil {
		return nil, err
	}
	return policies.NewPolicyFromBytes(text)
}

// checkRequirement refuses members that are unknown, missing, or do not go together.
func checkRequirement(requirement []byte) error {
	_, err := alone(requirement)
	return err
}

// checkKeys refuses keys that are none: one that cannot be read would otherwise look like a signature that is bad.
func checkKeys(kind string, requirement []byte) error {
	var r struct {
		KeyData   []byte   `json:"keyData"`
		KeyDatas  [][]byte `json:"keyDatas"`
		RekorData []byte   `json:"rekorPublicKeyData"`
		Rekors    [][]byte `json:"rekorPublicKeyDatas"`
		Fulcio    struct {
			CA []byte `json:"caData"`
		} `json:"fulcio"`
		PKI struct {
			Roots         []byte `json:"caRootsData"`
			Intermediates []byte `json:"caIntermediatesData"`
		} `json:"pki"`
	}
	if err := json.Unmarshal(requirement, &r); err != nil {
		return err
	}
	if kind == typeSignedBy {
		mechanism, ids, err := policies.NewEphemeralGPGSigningMechanism(r.KeyData)
		if err != nil {
			return fmt.Errorf("not an OpenPGP keyring: %w", err)
		}
		if len(ids) == 0 {
			return errors.New("an OpenPGP keyring without a key")
		}
		return mechanism.Close()
	}
	for _, key := range append(r.KeyDatas, r.KeyData) {
		if key == nil {
			continue
		}
		if _, err := cryptoutils.UnmarshalPEMToPublicKey(key); err != nil {
			return fmt.Errorf("not a public key in PEM: %w", err)
		}
	}
	for _, key := range append(r.Rekors, r.RekorData) {
		if key == nil {
			continue
		}
		parsed, err := cryptoutils.UnmarshalPEMToPublicKey(key)
		if err != nil {
			return fmt.Errorf("not a public key of Rekor in PEM: %w", err)
		}
		if _, ok := parsed.(*ecdsa.PublicKey); !ok {
			return errors.New("a public key of Rekor that is not for ECDSA")
		}
	}
	for _, certificates := range [][]byte{r.Fulcio.CA, r.PKI.Roots, r.PKI.Intermediates} {
		if certificates != nil && !x509.NewCertPool().AppendCertsFromPEM(certificates) {
			return errors.New("no certificate in PEM")
		}
	}
	return nil
}

// named is an image in a directory under the name that the user wrote.
type named struct {
	types.ImageReference
	name reference.Named
}

func (n named) DockerReference() reference.Named { return n.name }

// evaluate returns nil when the requirement accepts the manifest with this one signature. image/v5 takes cosign's signatures from its own transports
// only (types.ImageSource carries simple ones), so the three files are written in the layout of its "dir" transport, which in the guest lies in memory. They hold
// nothing secret: a manifest, a signature.
func evaluate(ctx context.Context, requirement []byte, name reference.Named, c candidate) error {
	policy, err := alone(requirement)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "nacre-signature-")
	if err != nil {
		return fmt.Errorf("a directory for one signature: %w", err)
	}
	defer os.RemoveAll(dir)
	for file, text := range map[string][]byte{"manifest.json": c.subject.manifest, "signature-1": c.stored} {
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			return fmt.Errorf("a directory for one signature: %w", err)
		}
	}
	stored, err := directory.NewReference(dir)
	if err != nil {
		return err
	}
	source, err := stored.NewImageSource(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }() // which does nothing
	judge, err := policies.NewPolicyContext(policy)
	if err != nil {
		return err
	}
	unparsed := image.UnparsedInstanceWithReference(image.UnparsedInstance(source, nil), named{stored, name})
	accepted, err := judge.IsRunningImageAllowed(ctx, unparsed)
	if err := errors.Join(err, judge.Destroy()); err != nil {
		return err
	}
	if !accepted {
		return errors.New("not accepted") // the library promises an error with each refusal
	}
	return nil
}

// verified says whether a refusal came after the signature itself was found good.
func verified(err error) bool {
	var refusal policies.PolicyRequirementError
	return errors.As(err, &refusal)
}

// maxUnpacked is the size in bytes of a simple signature when it is decompressed.
const maxUnpacked = 256 << 10

// Tags of OpenPGP packets, RFC 9580 section 5.
const (
	tagSignature  = 2
	tagOnePass    = 4
	tagCompressed = 8
	tagLiteral    = 11
)

// unpacked takes the compression off a signed message, as gpg puts it on, and refuses messages that are something else: what reads
// signatures later would follow any number of compressions within each other, to whatever size they come.
func unpacked(message []byte) ([]byte, error) {
	packets, err := opaque(message)
	if err != nil {
		return nil, err
	}
	if len(packets) == 1 && packets[0].Tag == tagCompressed {
		packet, err := packets[0].Parse()
		if err != nil {
			return nil, err
		}
		compressed, ok := packet.(*openpgp.Compressed)
		if !ok {
			return nil, errors.New("not a compressed OpenPGP message")
		}
		if message, err = io.ReadAll(io.LimitReader(compressed.Body, maxUnpacked+1)); err != nil {
			return nil, err
		}
		if len(message) > maxUnpacked {
			return nil, fmt.Errorf("a signature that becomes more than %d bytes", maxUnpacked)
		}
		if packets, err = opaque(message); err != nil {
			return nil, err
		}
	}
	for _, p := range packets {
		switch p.Tag {
		case tagSignature, tagOnePass, tagLiteral:
		default:
			return nil, fmt.Errorf("not a signed OpenPGP message: it has a packet of the kind %d", p.Tag)
		}
	}
	return message, nil
}

func opaque(message []byte) ([]*openpgp.OpaquePacket, error) {
	var list []*openpgp.OpaquePacket
	for r := openpgp.NewOpaqueReader(bytes.NewReader(message)); ; {
		p, err := r.Next()
		switch {
		case errors.Is(err, io.EOF) && len(list) > 0:
			return list, nil
		case err != nil:
			return nil, fmt.Errorf("not an OpenPGP message: %w", err)
		}
		list = append(list, p)
	}
}

// claimedSimple reads what an OpenPGP message says that it signs.
func claimedSimple(signature []byte) claims {
	info, err := policies.GetUntrustedSignatureInformationWithoutVerifying(signature)
	if err != nil {
		return claims{}
	}
	return claims{info.UntrustedDockerManifestDigest, info.UntrustedDockerReference}
}
