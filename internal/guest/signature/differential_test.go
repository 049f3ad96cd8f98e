// SPDX-License-Identifier: Apache-2.0

//go:build containers_image_openpgp

package signature

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/directory"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/image"
	policies "go.podman.io/image/v5/signature"
)

// fixtures is where image/v5 keeps images that cosign, skopeo, gpg and the public sigstore signed.
func fixtures(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "go.podman.io/image/v5").Output()
	dir := filepath.Join(strings.TrimSpace(string(out)), "signature", "fixtures")
	if _, e := os.Stat(dir); err != nil || e != nil {
		t.Skipf("the sources of image/v5 are not here: %v", errors.Join(err, e))
	}
	return dir
}

// TestAgreesWithImageV5 compares verdicts on real signatures, which reach us by a registry and a lookaside, with those of image/v5
// on its own files, for keys, names and ways to compare names in all combinations.
func TestAgreesWithImageV5(t *testing.T) {
	if testing.Short() {
		t.Skip("some two thousand signatures are verified twice")
	}
	dir := fixtures(t)
	read := func(path ...string) string {
		text, err := os.ReadFile(filepath.Join(append([]string{dir}, path...)...))
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(text)
	}
	rekor := read("..", "internal", "testdata", "rekor.pub")
	requirements := map[string]members{
		"cosign.pub":   {"type": "sigstoreSigned", "keyData": read("cosign.pub")},
		"cosign2.pub":  {"type": "sigstoreSigned", "keyData": read("cosign2.pub")},
		"several keys": {"type": "sigstoreSigned", "keyDatas": []string{read("cosign2.pub"), read("cosign.pub")}},
		"key and log":  {"type": "sigstoreSigned", "keyData": read("cosign2.pub"), "rekorPublicKeyData": rekor},
		"fulcio": {"type": "sigstoreSigned", "rekorPublicKeyData": rekor, "fulcio": members{"caData": read("fulcio_v1.crt.pem"),
			"oidcIssuer": "https://github.com/login/oauth", "subjectEmail": "mitr@redhat.com"}},
		"fulcio, another email": {"type": "sigstoreSigned", "rekorPublicKeyData": rekor, "fulcio": members{"caData": read("fulcio_v1.crt.pem"),
			"oidcIssuer": "https://github.com/login/oauth", "subjectEmail": "mallory@example.com"}},
		"gpg":         {"type": "signedBy", "keyType": "GPGKeys", "keyData": read("public-key.gpg")},
		"another gpg": {"type": "signedBy", "keyType": "GPGKeys", "keyData": read("public-key-2.gpg")},
	}
	identities := []members{{"type": "matchRepository"}, {"type": "matchRepoDigestOrExact"},
		{"type": "exactReference", "dockerReference": "192.168.64.2:5000/skopeo-signed:tag"},
		{"type": "remapIdentity", "prefix": "mirror.example.net", "signedPrefix": "192.168.64.2:5000"}}
	names := []string{"192.168.64.2:5000/cosign-signed-single-sample", "192.168.64.2:5000/skopeo-signed", "192.168.64.2:5000/cosign-signed/key-1",
		"192.168.64.2:5000/cosign-signed/fulcio-rekor-1", "mirror.example.net/skopeo-signed", "docker.io/testing/manifest"}
	images, err := filepath.Glob(filepath.Join(dir, "dir-img-*"))
	if err != nil {
		t.Fatal(err)
	}
	accepted := map[string]bool{}
	compared := 0
	for _, stored := range images {
		// Modules hold no links, which these were.
		base := map[string]string{"manifest.json": "image.manifest.json", "signature-1": "dir-img-valid/signature-1"}
		if strings.HasPrefix(filepath.Base(stored), "dir-img-cosign") {
			base = map[string]string{"manifest.json": "dir-img-cosign-valid/manifest.json", "signature-1": "dir-img-cosign-valid/signature-1"}
		}
		local := filepath.Join(t.TempDir(), filepath.Base(stored))
		if err := os.CopyFS(local, os.DirFS(stored)); err != nil {
			t.Fatal(err)
		}
		for file, from := range base {
			if _, err := os.Stat(filepath.Join(local, file)); err == nil {
				continue
			}
			text, err := os.ReadFile(filepath.Join(dir, from))
			if err == nil {
				err = os.WriteFile(filepath.Join(local, file), text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		manifest, err := os.ReadFile(filepath.Join(local, "manifest.json"))
		if err != nil {
			t.Fatal(err)
		}
		for by, requirement := range requirements {
			for _, identity := range identities {
				requirement["signedIdentity"] = identity
				policy := encode(t, members{"default": []any{requirement}})
				for _, name := range names {
					theirs := verdictOfImageV5(t, policy, local, withDigest(t, name, digest.FromBytes(manifest)))
					ours := verdictOnRegistry(t, policy, local, withDigest(t, name, digest.FromBytes(manifest)))
					if (theirs == nil) != (ours == nil) {
						t.Errorf("%s as %s by %s, %s: image/v5 says %v, we say %v", filepath.Base(local), name, by, identity["type"], theirs, ours)
					}
					if compared++; ours == nil {
						accepted[by] = true
					}
				}
			}
		}
	}
	// Two of the requirements are met by none of the images.
	if len(accepted) < len(requirements)-2 {
		t.Errorf("of all requirements only %v were ever met", accepted)
	}
	t.Logf("%d verdicts compared", compared)
}

func verdictOfImageV5(t *testing.T, text []byte, dir string, name reference.Named) error {
	t.Helper()
	policy, err := policies.NewPolicyFromBytes(text)
	if err != nil {
		t.Fatal(err)
	}
	judge, err := policies.NewPolicyContext(policy)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := directory.NewReference(dir)
	if err != nil {
		t.Fatal(err)
	}
	source, err := stored.NewImageSource(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = judge.IsRunningImageAllowed(t.Context(), image.UnparsedInstanceWithReference(image.UnparsedInstance(source, nil), named{stored, name}))
	return err
}

// verdictOnRegistry puts the signatures of a directory where a guest finds them.
func verdictOnRegistry(t *testing.T, text []byte, dir string, name reference.Named) error {
	t.Helper()
	r, where := newRepository(), server{}
	manifest, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(manifest)
	for n := 1; ; n++ {
		stored, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("signature-%d", n)))
		if err != nil {
			break
		}
		_, body, sigstore := bytes.Cut(stored, []byte("\x00sigstore-json\n"))
		if !sigstore {
			where[fmt.Sprintf("https://signatures.example.com/%s@sha256=%s/signature-%d", reference.Path(name), d.Encoded(), n)] = stored
			continue
		}
		var s struct {
			MIMEType    string            `json:"mimeType"`
			Payload     []byte            `json:"payload"`
			Annotations map[string]string `json:"annotations"`
		}
		if err := json.Unmarshal(body, &s); err != nil {
			t.Fatal(err)
		}
		r.attach(t, d, signed{s.MIMEType, s.Payload, s.Annotations})
	}
	policy, err := mustParse(t, string(text), nil).WithLookaside([]byte("default-docker:\n  lookaside: https://signatures.example.com\n"), where.get)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Verify(t.Context(), name, Image{Manifest: manifest, Source: r})
}
