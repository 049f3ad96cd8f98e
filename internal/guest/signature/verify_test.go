// SPDX-License-Identifier: Apache-2.0

//go:build containers_image_openpgp

package signature

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestCosign(t *testing.T) {
	p := newPod(t)
	key, other := newKey(t), newKey(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p.repository.attach(t, p.indexDigest(), cosign(t, newKey(t), p.indexDigest(), app)) // somebody's
	p.repository.attach(t, p.indexDigest(), cosign(t, key, p.indexDigest(), app))
	p.repository.attach(t, p.instanceDigest(), cosign(t, rsaKey, p.instanceDigest(), app+":v1"))

	pub := publicPEM(t, key)
	keys := func(_ context.Context, uri string) ([]byte, error) {
		switch uri {
		case "kbs:///default/cosign-key/1":
			return []byte(pub), nil
		case "kbs:///default/cosign-key/other":
			return []byte(publicPEM(t, other)), nil
		}
		return nil, errors.New("denied")
	}
	for name, requirement := range map[string]members{
		"keyData":           {"keyData": base64Of(pub)},
		"keyData as PEM":    {"keyData": pub},
		"keyPath":           {"keyPath": "kbs:///default/cosign-key/1"},
		"keyDatas":          {"keyDatas": []string{base64Of(publicPEM(t, other)), base64Of(pub)}},
		"keyPaths":          {"keyPaths": []string{"kbs:///default/cosign-key/other", "kbs:///default/cosign-key/1"}},
		"of the instance":   {"keyData": base64Of(publicPEM(t, rsaKey))},
		"matchRepository":   {"keyData": base64Of(pub), "signedIdentity": members{"type": "matchRepository"}},
		"exactRepository":   {"keyData": base64Of(pub), "signedIdentity": members{"type": "exactRepository", "dockerRepository": app}},
		"exactReference":    {"keyData": base64Of(publicPEM(t, rsaKey)), "signedIdentity": members{"type": "exactReference", "dockerReference": app + ":v1"}},
		"matchExact":        {"keyData": base64Of(publicPEM(t, rsaKey)), "signedIdentity": members{"type": "matchExact"}},
		"RepoDigestOrExact": {"keyData": base64Of(publicPEM(t, rsaKey)), "signedIdentity": members{"type": "matchRepoDigestOrExact"}},
	} {
		t.Run(name, func(t *testing.T) {
			requirement["type"] = "sigstoreSigned"
			if err := p.verify(t, demand(t, requirement, keys), app+":v1"); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("remapIdentity", func(t *testing.T) {
		requirement := members{"type": "sigstoreSigned", "keyData": base64Of(publicPEM(t, rsaKey)),
			"signedIdentity": members{"type": "remapIdentity", "prefix": "mirror.example.net/copy", "signedPrefix": "registry.example.com/team"}}
		if err := p.verify(t, demand(t, requirement, nil), "mirror.example.net/copy/app"); err != nil {
			t.Error(err)
		}
	})
	t.Run("all requirements", func(t *testing.T) {
		both := mustParse(t, string(encode(t, members{"default": []any{by(t, key), by(t, rsaKey)}})), nil)
		if err := p.verify(t, both, app); err != nil {
			t.Error(err)
		}
		third := mustParse(t, string(encode(t, members{"default": []any{by(t, key), by(t, other)}})), nil)
		wantCode(t, p.verify(t, third, app), CodeInvalid, "scope default, requirement 2 of 2, sigstoreSigned")
	})
}

// TestUnsignedAsksNobody sees that a policy which demands no signature costs no request.
func TestUnsignedAsksNobody(t *testing.T) {
	p := newPod(t)
	if err := p.verify(t, mustParse(t, `{"default":`+accept+`}`, nil), app); err != nil || len(p.repository.asked) > 0 {
		t.Errorf("error %v, asked for %q", err, p.repository.asked)
	}
}

func TestKeys(t *testing.T) {
	p := newPod(t)
	key := newKey(t)
	p.repository.attach(t, p.indexDigest(), cosign(t, key, p.indexDigest(), app))
	requirement := members{"type": "sigstoreSigned", "keyPath": "kbs:///default/cosign-key/1"}
	held := []byte(publicPEM(t, key))
	policy := demand(t, requirement, func(context.Context, string) ([]byte, error) {
		if held == nil {
			return nil, errors.New("denied")
		}
		return held, nil
	})
	if err := p.verify(t, policy, app); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key     []byte
		code    Code
		mention string
	}{
		"withdrawn":    {nil, CodeKeyUnavailable, "denied"},
		"replaced":     {[]byte(publicPEM(t, newKey(t))), CodeInvalid, "see that the policy has the key"},
		"empty":        {[]byte{}, CodeKeyUnavailable, "0 bytes"},
		"not a key":    {[]byte("hello"), CodeKeyUnavailable, "PEM"},
		"enormous":     {make([]byte, maxKey+1), CodeKeyUnavailable, "kbs:///default/cosign-key/1"},
		"a secret key": {[]byte("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"), CodeKeyUnavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			held = c.key
			wantCode(t, p.verify(t, policy, app), c.code, c.mention)
		})
	}
	t.Run("no trustee", func(t *testing.T) {
		wantCode(t, p.verify(t, demand(t, requirement, nil), app), CodeKeyUnavailable, "keyData")
	})
}

// TestAttackCosign lets an attacker who owns registry and mirror, and has keys of his own, offer other images and signatures.
func TestAttackCosign(t *testing.T) {
	key, evil := newKey(t), newKey(t)
	d := func(p pod) digest.Digest { return p.indexDigest() }
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, p pod)
		user    string // the repository that the user wrote
		want    Code
		mention string
	}{
		{"unsigned", func(t *testing.T, p pod) {}, app, CodeRequired, "nacre image sign"},
		{"another key", func(t *testing.T, p pod) {
			p.repository.attach(t, d(p), cosign(t, evil, d(p), app))
		}, app, CodeInvalid, ""},
		{"another image", func(t *testing.T, p pod) {
			p.repository.attach(t, d(p), cosign(t, key, digest.FromString("another image"), app))
		}, app, CodeDigest, digest.FromString("another image").String()},
		{"another repository", func(t *testing.T, p pod) {
			p.repository.attach(t, d(p), cosign(t, key, d(p), "registry.example.com/team/harmless"))
		}, app, CodeIdentity, "registry.example.com/team/harmless"},
		{"name of the mirror", func(t *testing.T, p pod) {
			p.repository.attach(t, d(p), cosign(t, key, d(p), "mirror.example.net/team/app"))
		}, app, CodeIdentity, "mirror.example.net"},
		{"name that contains the user's", func(t *testing.T, p pod) {
			p.repository.attach(t, d(p), cosign(t, key, d(p), "evil.com/"+app))
		}, app, CodeIdentity, ""},
		{"name that the user's contains", func(t *testing.T, p pod) {
			p.repository.attach(t, d(p), cosign(t, key, d(p), app))
		}, "evil.com/" + app, CodeIdentity, ""},
		{"no name", func(t *testing.T, p pod) {
			p.repository.attach(t, d(p), cosign(t, key, d(p), ""))
		}, app, CodeIdentity, ""},
		{"index asked, another platform signed", func(t *testing.T, p pod) {
			p.repository.attach(t, d(p), cosign(t, key, digest.FromString("of another platform"), app))
			p.repository.attach(t, p.instanceDigest(), cosign(t, key, digest.FromString("of another platform"), app))
		}, app, CodeDigest, ""},
		{"payload of another type", func(t *testing.T, p pod) {
			p.repository.attach(t, d(p), signPayload(t, key, payload(d(p), app, "atomic container signature")))
		}, app, CodeInvalid, "type"},
		{"payload with two digests", func(t *testing.T, p pod) {
			text := payload(d(p), app, "cosign container image signature")
			text = bytes.Replace(text, []byte(`"docker-manifest-digest"`), []byte(`"docker-manifest-digest":"x","docker-manifest-digest"`), 1)
			p.repository.attach(t, d(p), signPayload(t, key, text))
		}, app, CodeInvalid, ""},
		{"layer of another type", func(t *testing.T, p pod) {
			s := cosign(t, key, d(p), app)
			s.mediaType = "application/vnd.dsse.envelope.v1+json"
			p.repository.attach(t, d(p), s)
		}, app, CodeRequired, ""},
		{"no signature in the layer", func(t *testing.T, p pod) {
			s := cosign(t, key, d(p), app)
			s.annotations = nil
			p.repository.attach(t, d(p), s)
		}, app, CodeRequired, ""},
		{"signature that is no base64", func(t *testing.T, p pod) {
			s := cosign(t, key, d(p), app)
			s.annotations[Annotation] = "%%%"
			p.repository.attach(t, d(p), s)
		}, app, CodeInvalid, ""},
		{"payload changed", func(t *testing.T, p pod) {
			s := cosign(t, key, digest.FromString("another image"), app)
			s.payload = payload(d(p), app, "cosign container image signature")
			p.repository.attach(t, d(p), s)
		}, app, CodeInvalid, ""},
		{"signature manifest is none", func(t *testing.T, p pod) {
			p.repository.manifests[Tag(d(p))] = []byte("<html>")
		}, app, CodeUnavailable, Tag("sha256:")[:6]},
		{"signature manifest is the image's", func(t *testing.T, p pod) {
			p.repository.manifests[Tag(d(p))] = p.instance
		}, app, CodeRequired, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPod(t)
			c.prepare(t, p)
			wantCode(t, p.verify(t, demand(t, by(t, key), nil), c.user), c.want, c.mention)
		})
	}
	t.Run("the first of two requirements", func(t *testing.T) {
		p := newPod(t)
		p.repository.attach(t, d(p), cosign(t, key, d(p), app))
		both := mustParse(t, string(encode(t, members{"default": []any{by(t, key), by(t, evil)}})), nil)
		wantCode(t, p.verify(t, both, app), CodeInvalid, "requirement 2 of 2")
	})
	t.Run("instance asked, index signed", func(t *testing.T) {
		p := newPod(t)
		p.repository.attach(t, d(p), cosign(t, key, d(p), app))
		p.repository.attach(t, p.instanceDigest(), cosign(t, key, d(p), app))
		err := demand(t, by(t, key), nil).Verify(t.Context(), withDigest(t, app, p.instanceDigest()), Image{Manifest: p.instance, Source: p.repository})
		wantCode(t, err, CodeDigest, "index")
	})
	t.Run("tag of the signature", func(t *testing.T) {
		p := newPod(t)
		p.repository.attach(t, d(p), cosign(t, key, d(p), app+":v1"))
		exact := by(t, key)
		exact["signedIdentity"] = members{"type": "matchExact"}
		wantCode(t, p.verify(t, demand(t, exact, nil), app+":v2"), CodeIdentity, "v1")
		wantCode(t, p.verify(t, demand(t, exact, nil), app), CodeIdentity, "v1")
	})
	t.Run("prefix of another name", func(t *testing.T) {
		p := newPod(t)
		p.repository.attach(t, d(p), cosign(t, key, d(p), app+":v1"))
		remap := by(t, key)
		remap["signedIdentity"] = members{"type": "remapIdentity", "prefix": "mirror.example.net", "signedPrefix": "registry.example.com"}
		wantCode(t, p.verify(t, demand(t, remap, nil), "mirror.example.net.evil.com/team/app"), CodeIdentity)
	})
}

// TestAttackPayloadNotOfTheDigest has a registry that delivers something else than the manifest of signatures names.
func TestAttackPayloadNotOfTheDigest(t *testing.T) {
	p := newPod(t)
	key := newKey(t)
	s := cosign(t, key, p.indexDigest(), app)
	p.repository.attach(t, p.indexDigest(), signed{PayloadMediaType, []byte("what the manifest names"), s.annotations})
	p.repository.blobs[digest.FromString("what the manifest names")] = s.payload
	wantCode(t, p.verify(t, demand(t, by(t, key), nil), app), CodeUnavailable, "is not the one that the digest")
}

// TestAttackLargeSignatures offers more than anybody needs.
func TestAttackLargeSignatures(t *testing.T) {
	key := newKey(t)
	verify := func(t *testing.T, prepare func(p pod)) {
		t.Helper()
		p := newPod(t)
		prepare(p)
		wantCode(t, p.verify(t, demand(t, by(t, key), nil), app), CodeUnavailable, "more than")
	}
	t.Run("manifest", func(t *testing.T) {
		verify(t, func(p pod) {
			p.repository.attach(t, p.indexDigest(), cosign(t, key, p.indexDigest(), app))
			text := p.repository.manifests[Tag(p.indexDigest())]
			p.repository.manifests[Tag(p.indexDigest())] = append(text, bytes.Repeat([]byte(" "), maxManifest)...)
		})
	})
	t.Run("number", func(t *testing.T) {
		verify(t, func(p pod) {
			layer := p.repository.put(cosign(t, key, p.indexDigest(), app))
			p.repository.manifests[Tag(p.indexDigest())] = encode(t, ocispec.Manifest{Layers: slices.Repeat([]ocispec.Descriptor{layer}, maxSignatures+1)})
		})
	})
	t.Run("annotations", func(t *testing.T) {
		verify(t, func(p pod) {
			s := cosign(t, key, p.indexDigest(), app)
			s.annotations["dev.sigstore.cosign/chain"] = strings.Repeat("x", maxAnnotations)
			p.repository.attach(t, p.indexDigest(), s)
		})
	})
	large := func(t *testing.T, p pod) signed {
		text := payload(p.indexDigest(), app, "cosign container image signature")
		return signPayload(t, key, append(text, bytes.Repeat([]byte(" "), maxPayload)...))
	}
	t.Run("payload", func(t *testing.T) {
		verify(t, func(p pod) { p.repository.attach(t, p.indexDigest(), large(t, p)) })
	})
	t.Run("payload of a size that is not said", func(t *testing.T) {
		verify(t, func(p pod) {
			layer := p.repository.put(large(t, p))
			layer.Size = 200
			p.repository.manifests[Tag(p.indexDigest())] = encode(t, ocispec.Manifest{Layers: []ocispec.Descriptor{layer}})
		})
	})
}

// TestForeignSignatures has signatures beside the good one that cannot be read in every way there is.
func TestForeignSignatures(t *testing.T) {
	p := newPod(t)
	key := newKey(t)
	foreign := cosign(t, newKey(t), p.indexDigest(), app)
	missing := cosign(t, newKey(t), p.indexDigest(), "gone")
	huge := signPayload(t, newKey(t), bytes.Repeat([]byte(" "), maxPayload+1))
	for _, s := range []signed{foreign, missing, huge, signPayload(t, newKey(t), []byte("no JSON")),
		{"text/plain", []byte("an attachment"), nil}, {PayloadMediaType, foreign.payload, map[string]string{Annotation: "%%%"}}} {
		p.repository.attach(t, p.indexDigest(), s)
	}
	delete(p.repository.blobs, digest.FromBytes(missing.payload))
	p.repository.attach(t, p.indexDigest(), cosign(t, key, p.indexDigest(), app))
	p.repository.attach(t, p.indexDigest(), foreign)
	if err := p.verify(t, demand(t, by(t, key), nil), app); err != nil {
		t.Error(err)
	}
	err := p.verify(t, demand(t, by(t, newKey(t)), nil), app)
	wantCode(t, err, CodeInvalid, "and 1 more", "64")
}

func TestUnreachable(t *testing.T) {
	p := newPod(t)
	key := newKey(t)
	down := Image{Manifest: p.index, Instance: p.instance, Source: unreachable{}}
	wantCode(t, demand(t, by(t, key), nil).Verify(t.Context(), p.name(t, app), down), CodeUnavailable, "connection refused")
	wantCode(t, demand(t, by(t, key), nil).Verify(t.Context(), p.name(t, app), Image{Manifest: p.index}), CodeUnavailable, "no registry")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := demand(t, by(t, key), nil).Verify(ctx, p.name(t, app), p.image()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

type unreachable struct{}

func (unreachable) Manifest(context.Context, string) ([]byte, string, error) {
	return nil, "", errors.New("connection refused")
}

func (unreachable) Blob(context.Context, digest.Digest) (io.ReadCloser, int64, error) {
	return nil, 0, errors.New("connection refused")
}

func TestKeyless(t *testing.T) {
	p := newPod(t)
	a := newAuthority(t)
	p.repository.attach(t, p.indexDigest(), newAuthority(t).sign(t, good(), p.indexDigest(), app)) // of another authority
	p.repository.attach(t, p.indexDigest(), a.sign(t, good(), p.indexDigest(), app))
	if err := p.verify(t, demand(t, a.demand(t), nil), app); err != nil {
		t.Error(err)
	}
	t.Run("from the trustee", func(t *testing.T) {
		keys := func(_ context.Context, uri string) ([]byte, error) {
			return map[string][]byte{"kbs:///sigstore/fulcio/root": []byte(certificatePEM(a.root)), "kbs:///sigstore/rekor/key": []byte(publicPEM(t, a.log))}[uri], nil
		}
		requirement := members{"type": "sigstoreSigned", "rekorPublicKeyPath": "kbs:///sigstore/rekor/key",
			"fulcio": members{"caPath": "kbs:///sigstore/fulcio/root", "oidcIssuer": issuer, "subjectEmail": builder}}
		if err := p.verify(t, demand(t, requirement, keys), app); err != nil {
			t.Error(err)
		}
		wantCode(t, p.verify(t, demand(t, requirement, func(context.Context, string) ([]byte, error) { return []byte("x"), nil }), app), CodeKeyUnavailable)
	})
	t.Run("key with an entry in the log", func(t *testing.T) {
		p, key := newPod(t), newKey(t)
		requirement := by(t, key)
		requirement["rekorPublicKeyData"] = base64Of(publicPEM(t, a.log))
		s := cosign(t, key, p.indexDigest(), app)
		p.repository.attach(t, p.indexDigest(), s)
		wantCode(t, p.verify(t, demand(t, requirement, nil), app), CodeInvalid, "dev.sigstore.cosign/bundle")
		a.enter(t, s, publicPEM(t, key), theTime)
		p.repository.attach(t, p.indexDigest(), s)
		if err := p.verify(t, demand(t, requirement, nil), app); err != nil {
			t.Error(err)
		}
	})
}

func TestAttackKeyless(t *testing.T) {
	a := newAuthority(t)
	for _, c := range []struct {
		name string
		sign func(t *testing.T, p pod) signed
		want Code
	}{
		{"signed after the certificate ended", func(t *testing.T, p pod) signed {
			how := good()
			how.at = how.until.Add(time.Second)
			return a.sign(t, how, p.indexDigest(), app)
		}, CodeInvalid},
		{"signed before the certificate began", func(t *testing.T, p pod) signed {
			how := good()
			how.at = how.from.Add(-time.Second)
			return a.sign(t, how, p.indexDigest(), app)
		}, CodeInvalid},
		{"signed after the authority ended", func(t *testing.T, p pod) signed {
			how := good()
			how.at = theTime.Add(2 * time.Hour)
			how.from, how.until = how.at.Add(-time.Minute), how.at.Add(time.Minute)
			return a.sign(t, how, p.indexDigest(), app)
		}, CodeInvalid},
		{"another authority", func(t *testing.T, p pod) signed {
			other := newAuthority(t)
			other.log = a.log
			return other.sign(t, good(), p.indexDigest(), app)
		}, CodeInvalid},
		{"another log", func(t *testing.T, p pod) signed {
			other := a
			other.log = newKey(t)
			return other.sign(t, good(), p.indexDigest(), app)
		}, CodeInvalid},
		{"another issuer", func(t *testing.T, p pod) signed {
			how := good()
			how.issuer = "https://accounts.evil.example"
			return a.sign(t, how, p.indexDigest(), app)
		}, CodeInvalid},
		{"another email", func(t *testing.T, p pod) signed {
			how := good()
			how.email = "mallory@example.com"
			return a.sign(t, how, p.indexDigest(), app)
		}, CodeInvalid},
		{"no entry in the log", func(t *testing.T, p pod) signed {
			s := a.sign(t, good(), p.indexDigest(), app)
			delete(s.annotations, "dev.sigstore.cosign/bundle")
			return s
		}, CodeInvalid},
		{"entry of another signature", func(t *testing.T, p pod) signed {
			s, other := a.sign(t, good(), p.indexDigest(), app), a.sign(t, good(), p.indexDigest(), app)
			s.annotations["dev.sigstore.cosign/bundle"] = other.annotations["dev.sigstore.cosign/bundle"]
			return s
		}, CodeInvalid},
		{"certificate of another signature", func(t *testing.T, p pod) signed {
			s, other := a.sign(t, good(), p.indexDigest(), app), a.sign(t, good(), p.indexDigest(), app)
			s.annotations["dev.sigstore.cosign/certificate"] = other.annotations["dev.sigstore.cosign/certificate"]
			return s
		}, CodeInvalid},
		{"key instead of a certificate", func(t *testing.T, p pod) signed {
			key := newKey(t)
			s := cosign(t, key, p.indexDigest(), app)
			a.enter(t, s, publicPEM(t, key), theTime)
			s.annotations["dev.sigstore.cosign/certificate"] = publicPEM(t, key)
			return s
		}, CodeInvalid},
		{"entry that nests without end", func(t *testing.T, p pod) signed {
			s := a.sign(t, good(), p.indexDigest(), app)
			s.annotations["dev.sigstore.cosign/bundle"] = `{"SignedEntryTimestamp":"","Payload":` + strings.Repeat("[", maxAnnotations/2)
			return s
		}, CodeInvalid},
		{"another image", func(t *testing.T, p pod) signed {
			return a.sign(t, good(), digest.FromString("another image"), app)
		}, CodeDigest},
		{"another name", func(t *testing.T, p pod) signed {
			return a.sign(t, good(), p.indexDigest(), "registry.example.com/team/harmless")
		}, CodeIdentity},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPod(t)
			p.repository.attach(t, p.indexDigest(), c.sign(t, p))
			wantCode(t, p.verify(t, demand(t, a.demand(t), nil), app), c.want)
		})
	}
}

// server is a lookaside in memory: URL or kbs URI to what is there.
type server map[string][]byte

func (s server) get(_ context.Context, where string) ([]byte, error) {
	if blob, ok := s[where]; ok {
		return blob, nil
	}
	return nil, fmt.Errorf("%s: %w", where, ErrNotFound)
}

const places = `
default-docker:
  lookaside: https://signatures.example.com/all/
docker:
  registry.example.com/team:
    sigstore: http://signatures.example.com/team
  "*.example.net":
    lookaside: kbs:///default/signatures
`

func simple(t testing.TB, p person, keys Keys, fetch Fetch) *Policy {
	t.Helper()
	policy, err := demand(t, members{"type": "signedBy", "keyType": "GPGKeys", "keyData": p.keyring(t)}, keys).WithLookaside([]byte(places), fetch)
	if err != nil {
		t.Fatal(err)
	}
	return policy
}

func (p pod) at(base string, d digest.Digest, n int) string {
	return fmt.Sprintf("%s@sha256=%s/signature-%d", base, d.Encoded(), n)
}

func TestSimpleSigning(t *testing.T) {
	p := newPod(t)
	alice, bob := newPerson(t), newPerson(t)
	for name, c := range map[string]struct {
		user  string
		where server
	}{
		"place of the namespace": {app + ":v1", server{p.at("http://signatures.example.com/team/team/app", p.indexDigest(), 1): alice.sign(t, p.indexDigest(), app+":v1")}},
		"default place":          {"quay.io/x", server{p.at("https://signatures.example.com/all/x", p.indexDigest(), 1): alice.sign(t, p.indexDigest(), "quay.io/x:v9")}},
		"compressed":             {"quay.io/x", server{p.at("https://signatures.example.com/all/x", p.indexDigest(), 1): compressed(t, alice.sign(t, p.indexDigest(), "quay.io/x:v9"))}},
		"of the instance":        {"quay.io/x", server{p.at("https://signatures.example.com/all/x", p.instanceDigest(), 1): alice.sign(t, p.instanceDigest(), "quay.io/x:v9")}},
		"not the first": {"quay.io/x", server{
			p.at("https://signatures.example.com/all/x", p.indexDigest(), 1): bob.sign(t, p.indexDigest(), "quay.io/x:v9"),
			p.at("https://signatures.example.com/all/x", p.indexDigest(), 2): []byte("<html>"),
			p.at("https://signatures.example.com/all/x", p.indexDigest(), 3): make([]byte, maxSimpleSignature+1),
			p.at("https://signatures.example.com/all/x", p.indexDigest(), 4): alice.sign(t, p.indexDigest(), "quay.io/x:v9")}},
		"in the trustee": {"a.example.net/x", server{"kbs:///default/signatures/sha256-" + p.indexDigest().Encoded() + ".signature-1": alice.sign(t, p.indexDigest(), "a.example.net/x:v1")}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := p.verify(t, simple(t, alice, c.where.get, c.where.get), c.user); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("keyring from the trustee", func(t *testing.T) {
		where := server{p.at("https://signatures.example.com/all/x", p.indexDigest(), 1): alice.sign(t, p.indexDigest(), "quay.io/x:v9")}
		ring, err := base64.StdEncoding.DecodeString(alice.keyring(t))
		if err != nil {
			t.Fatal(err)
		}
		keys := server{"kbs:///default/gpg-public-config/1": ring}
		requirement := members{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "kbs:///default/gpg-public-config/1"}
		policy, err := demand(t, requirement, keys.get).WithLookaside([]byte(places), where.get)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.verify(t, policy, "quay.io/x"); err != nil {
			t.Error(err)
		}
		maps.DeleteFunc(keys, func(string, []byte) bool { return true })
		wantCode(t, p.verify(t, policy, "quay.io/x"), CodeKeyUnavailable)
		keys["kbs:///default/gpg-public-config/1"] = []byte("no keyring")
		wantCode(t, p.verify(t, policy, "quay.io/x"), CodeKeyUnavailable, "OpenPGP")
	})
}

func TestAttackSimpleSigning(t *testing.T) {
	p := newPod(t)
	alice, mallory := newPerson(t), newPerson(t)
	const base = "https://signatures.example.com/all/x"
	message := alice.sign(t, p.indexDigest(), "quay.io/x:v9")
	for name, c := range map[string]struct {
		blob    []byte
		want    Code
		mention string
	}{
		"unsigned":                {nil, CodeRequired, ""},
		"another key":             {mallory.sign(t, p.indexDigest(), "quay.io/x:v9"), CodeInvalid, ""},
		"another image":           {alice.sign(t, digest.FromString("another image"), "quay.io/x:v9"), CodeDigest, ""},
		"another name":            {alice.sign(t, p.indexDigest(), "quay.io/y:v9"), CodeIdentity, "quay.io/y"},
		"name that contains it":   {alice.sign(t, p.indexDigest(), "evil.com/quay.io/x:v9"), CodeIdentity, ""},
		"cosign's payload":        {signText(t, alice, payload(p.indexDigest(), "quay.io/x:v9", "cosign container image signature")), CodeInvalid, ""},
		"text that is changed":    {bytes.Replace(message, []byte("quay.io/x:v9"), []byte("quay.io/x:v8"), 1), CodeInvalid, ""},
		"twice compressed":        {compressed(t, compressed(t, message)), CodeUnavailable, "kind 8"},
		"compression bomb":        {compressed(t, bytes.Repeat([]byte{0}, 16<<20)), CodeUnavailable, "more than"},
		"bomb behind a header":    {append(slices.Clone(message[:16]), compressed(t, make([]byte, 1<<20))...), CodeUnavailable, ""},
		"encrypted":               {[]byte{0xd2, 1, 1}, CodeUnavailable, "kind 18"},
		"no message":              {[]byte("<html>"), CodeUnavailable, "OpenPGP"},
		"in the form of a cosign": {[]byte("\x00sigstore-json\n{}"), CodeUnavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			where := server{}
			if c.blob != nil {
				where[p.at(base, p.indexDigest(), 1)] = c.blob
			}
			wantCode(t, p.verify(t, simple(t, alice, nil, where.get), "quay.io/x"), c.want, c.mention)
		})
	}
	t.Run("no end of signatures", func(t *testing.T) {
		n := 0
		blob := mallory.sign(t, p.indexDigest(), "quay.io/x:v9")
		policy := simple(t, alice, nil, func(context.Context, string) ([]byte, error) { n++; return blob, nil })
		wantCode(t, p.verify(t, policy, "quay.io/x"), CodeInvalid)
		if want := 2 * maxSimpleSignatures; n != want { // for the index and the instance
			t.Errorf("asked %d times, want %d", n, want)
		}
	})
}

func TestNoPlaceForSimpleSignatures(t *testing.T) {
	p := newPod(t)
	policy := demand(t, members{"type": "signedBy", "keyType": "GPGKeys", "keyData": newPerson(t).keyring(t)}, nil)
	wantCode(t, p.verify(t, policy, app), CodeUnavailable, "sigstore_config")
	fetch := server{}.get
	for _, text := range []string{"docker: [", "docker:\n  busybox:\n    lookaside: https://x.example\n", "default-docker:\n  lookaside: file:///var/lib\n",
		"default-docker:\n  lookaside: /var/lib\n", "default-docker:\n  lookaside: https://user@x.example\n", "default-docker:\n  lookaside: https:///x\n",
		"default-docker:\n  lookaside: kbs:///only\n  other: 1\n", "default-docker:\n  lookaside: kbs:///a/b/c\n", strings.Repeat("#", maxPlaces+1)} {
		_, err := policy.WithLookaside([]byte(text), fetch)
		wantCode(t, err, CodePolicyMalformed, "place")
	}
	_, err := policy.WithLookaside([]byte(places), nil)
	wantCode(t, err, CodePolicyMalformed, "http is not spoken here")
}

func TestParseRefusesRequirements(t *testing.T) {
	key := base64Of(publicPEM(t, newKey(t)))
	for name, text := range map[string]string{
		"no key":                    `{"type":"sigstoreSigned"}`,
		"two keys":                  `{"type":"sigstoreSigned","keyData":"` + key + `","keyPath":"kbs:///a/b/c"}`,
		"a list for one":            `{"type":"sigstoreSigned","keyData":["` + key + `"]}`,
		"an empty list":             `{"type":"sigstoreSigned","keyDatas":[]}`,
		"no base64":                 `{"type":"sigstoreSigned","keyData":"%%%"}`,
		"a number":                  `{"type":"sigstoreSigned","keyData":7}`,
		"an unknown member":         `{"type":"sigstoreSigned","keyData":"` + key + `","comment":"x"}`,
		"fulcio without a log":      `{"type":"sigstoreSigned","fulcio":{"caData":"eA==","oidcIssuer":"i","subjectEmail":"e"}}`,
		"fulcio without an email":   `{"type":"sigstoreSigned","fulcio":{"caData":"eA==","oidcIssuer":"i"},"rekorPublicKeyData":"` + key + `"}`,
		"fulcio no object":          `{"type":"sigstoreSigned","fulcio":[],"rekorPublicKeyData":"` + key + `"}`,
		"identity no object":        `{"type":"sigstoreSigned","keyData":"` + key + `","signedIdentity":"matchExact"}`,
		"an unknown identity":       `{"type":"sigstoreSigned","keyData":"` + key + `","signedIdentity":{"type":"any"}}`,
		"identity without a name":   `{"type":"sigstoreSigned","keyData":"` + key + `","signedIdentity":{"type":"exactReference"}}`,
		"an unknown kind of key":    `{"type":"signedBy","keyType":"Keys","keyData":"` + key + `"}`,
		"several keyrings":          `{"type":"signedBy","keyType":"GPGKeys","keyPaths":["kbs:///a/b/c"]}`,
		"cosign's key for signedBy": `{"type":"signedBy","keyData":"` + key + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(`{"default":[`+text+`]}`), nil)
			wantCode(t, err, CodePolicyMalformed, "scope default, requirement 1 of 1")
		})
	}
}

func TestConcurrentUse(t *testing.T) {
	p := newPod(t)
	key := newKey(t)
	p.repository.attach(t, p.indexDigest(), cosign(t, key, p.indexDigest(), app))
	policy := demand(t, by(t, key), nil)
	done := make(chan error)
	for range 4 {
		image := p.image()
		image.Source = &repository{manifests: p.repository.manifests, blobs: p.repository.blobs}
		go func() { done <- policy.Verify(t.Context(), p.name(t, app), image) }()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func FuzzCosignSignatures(f *testing.F) {
	p := newPod(f)
	key := newKey(f)
	s := cosign(f, key, digest.FromString("another image"), app)
	p.repository.attach(f, p.indexDigest(), s)
	policy := demand(f, by(f, key), nil)
	name := p.name(f, app)
	f.Add(p.repository.manifests[Tag(p.indexDigest())], s.payload)
	f.Add([]byte(`{"layers":[{"digest":"sha256:x"}]}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, manifest, text []byte) {
		r := newRepository()
		r.manifests[Tag(p.indexDigest())] = manifest
		var m ocispec.Manifest
		if json.Unmarshal(manifest, &m) == nil {
			for i := range m.Layers {
				m.Layers[i].Digest = digest.FromBytes(text)
			}
			r.manifests[Tag(p.indexDigest())] = encode(t, m)
		}
		r.blobs[digest.FromBytes(text)] = text
		if err := policy.Verify(t.Context(), name, Image{Manifest: p.index, Source: r}); CodeOf(err) == "" {
			t.Fatalf("got %v", err)
		}
	})
}

func FuzzSimpleSignature(f *testing.F) {
	p := newPod(f)
	alice := newPerson(f)
	f.Add(alice.sign(f, digest.FromString("another image"), "quay.io/x:v1"))
	f.Add(compressed(f, alice.sign(f, digest.FromString("another image"), "quay.io/x:v1")))
	f.Add(compressed(f, make([]byte, 1<<10)))
	name := p.name(f, "quay.io/x")
	f.Fuzz(func(t *testing.T, blob []byte) {
		where := server{p.at("https://signatures.example.com/all/x", p.indexDigest(), 1): blob}
		if err := simple(t, alice, nil, where.get).Verify(t.Context(), name, Image{Manifest: p.index}); CodeOf(err) == "" {
			t.Fatalf("got %v", err)
		}
	})
}
