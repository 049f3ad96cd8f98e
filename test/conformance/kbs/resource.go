// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/nacre-project/nacre/test/conformance/suite"
)

// tokenMissing is how a request without a token is refused.
var tokenMissing = refusal{[]string{"TokenNotFound"}, "Attestation Token not found"}

// tokenBad is how one with a token that does not count is; stock servers tell it either way.
var tokenBad = refusal{variants: []string{"TokenNotFound", "TokenVerifierError"}}

func (s *server) resourceCases() []suite.Case {
	// opened asks for a resource and decrypts it.
	opened := func(ctx context.Context, p *suite.Probe, key *teeKey, path string, options ...option) *envelope {
		a := s.resource(ctx, p, path, options...)
		if !a.demand(p, http.StatusOK) {
			return nil
		}
		p.Check(a.mediaType() == "application/json", "%s: Content-Type %q", a.what, a.header.Get("Content-Type"))
		e, err := parseEnvelope(a.body)
		if err != nil {
			p.Failf("%s: %v", a.what, err)
			return nil
		}
		plain, err := key.open(e)
		if err != nil {
			p.Failf("%s: %v", a.what, err)
			return e
		}
		want, known := resources[strings.SplitN(path, "?", 2)[0]]
		p.Check(!known || bytes.Equal(plain, want), "%s: %d bytes, want the %d stored", a.what, len(plain), len(want))
		return e
	}
	ready := func(ctx context.Context, p *suite.Probe) *attested {
		s.provision(ctx, p)
		return s.guest(ctx, p)
	}
	var list []suite.Case
	for _, kind := range []string{"ECDH-ES+A256KW-P256", "ECDH-ES+A256KW-P521", "RSA-OAEP-256"} {
		list = append(list, suite.Case{Name: "resource/jwe-" + kind, Ref: "trustee §1.8, RFC 7516, RFC 7518 §4",
			Level: suite.Must,
			Want: "a resource comes as the five members of a flattened JWE with the exact header text, and opens by hand " +
				"with the received header as additional data",
			Run: func(ctx context.Context, p *suite.Probe) {
				s.provision(ctx, p)
				a := s.attempt(ctx, p)
				var err error
				if a.key, err = newKey(kind); err != nil {
					p.Fatalf("%v", err)
				}
				g := s.succeed(ctx, p, a)
				for _, path := range []string{"text/one", "binary/all", "empty/none", "long/mib"} {
					e := opened(ctx, p, a.key, path, bearer(g.token))
					if e == nil {
						continue
					}
					want, header, err := a.key.headerText(e)
					if err != nil {
						p.Failf("%s: %v", path, err)
					}
					p.Check(string(header) == want, "%s: the header is %s, want %s", path, header, want)
				}
			}})
	}
	return append(list,
		suite.Case{Name: "resource/no-token", Ref: "trustee §1.3, §1.9", Level: suite.Must,
			Want: "without a token it is 401 TokenNotFound, \"Attestation Token not found\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				s.resource(ctx, p, "text/one").refused(p, http.StatusUnauthorized, tokenMissing)
				s.ask(ctx, p, http.MethodGet, prefix+"resource/none/of/these", nil).
					refused(p, http.StatusUnauthorized, tokenMissing)
			}},
		suite.Case{Name: "resource/session-not-attested", Ref: "trustee §1.3", Level: suite.Must,
			Want: "a session that has not attested has no token: 401",
			Run: func(ctx context.Context, p *suite.Probe) {
				_, cookie, err := s.challenge(ctx)
				if err != nil {
					p.Fatalf("%v", err)
				}
				s.resource(ctx, p, "text/one", withCookie(cookie)).refused(p, http.StatusUnauthorized, tokenMissing)
			}},
		suite.Case{Name: "resource/session-unknown", Ref: "trustee §1.3, §8.6.4", Level: suite.Must,
			Want: "an unknown session is 401, which makes guests attest again",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, value := range []string{"", "x", strings.Repeat("0", 32)} {
					s.resource(ctx, p, "text/one", withCookie(value)).refused(p, http.StatusUnauthorized, tokenMissing)
				}
			}},
		suite.Case{Name: "resource/bad-token", Ref: "trustee §2.3, §8.6.4, RFC 8725 §2", Level: suite.Must,
			Want: "a token that is garbage, unsigned, changed, or signed by a key of its own header is 401",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				for name, token := range forgeries(p, g.token) {
					a := s.resource(ctx, p, "text/one", bearer(token))
					before := p.Failed()
					if a.refused(p, http.StatusUnauthorized, tokenBad); p.Failed() && !before {
						p.Failf("with a token that is %s", name)
					}
				}
			}},
		suite.Case{Name: "resource/bearer", Ref: "trustee §1.3", Level: suite.Must, Want: "the token serves as bearer",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				opened(ctx, p, g.attempt.key, "text/one", bearer(g.token))
			}},
		suite.Case{Name: "resource/bearer-case", Ref: "RFC 9110 §11.1", Level: suite.Should,
			Want: "the scheme Bearer is read in any case",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				opened(ctx, p, g.attempt.key, "text/one", func(r *http.Request) {
					r.Header.Set("Authorization", "bearer "+g.token)
				})
			}},
		suite.Case{Name: "resource/cookie", Ref: "trustee §1.3, §1.7", Level: suite.Must,
			Want: "the session's cookie serves in place of the token, the one set by auth and the one set by attest",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				opened(ctx, p, g.attempt.key, "text/one", withCookie(g.attempt.cookie))
				if c := g.answer.cookie(); c != nil {
					opened(ctx, p, g.attempt.key, "text/one", withCookie(c.Value))
				}
			}},
		suite.Case{Name: "resource/cookie-then-bearer", Ref: "trustee §1.3", Level: suite.Must,
			Want: "the session comes first, and the bearer where there is none",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				opened(ctx, p, g.attempt.key, "text/one", withCookie("unknown"), bearer(g.token))
				opened(ctx, p, g.attempt.key, "text/one", withCookie(g.attempt.cookie), bearer("a.b.c"))
				other := s.succeed(ctx, p, s.attempt(ctx, p))
				opened(ctx, p, g.attempt.key, "text/one", withCookie(g.attempt.cookie), bearer(other.token))
			}},
		suite.Case{Name: "resource/fresh", Ref: "RFC 7518 §4.6, §5.3", Level: suite.Must,
			Want: "each envelope has a content key, an ephemeral key and an IV of its own",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				one, two := opened(ctx, p, g.attempt.key, "text/one", bearer(g.token)),
					opened(ctx, p, g.attempt.key, "text/one", bearer(g.token))
				if one != nil && two != nil {
					p.Check(one.Protected != two.Protected && one.EncryptedKey != two.EncryptedKey && one.IV != two.IV &&
						one.Ciphertext != two.Ciphertext, "two envelopes share a part")
				}
			}},
		suite.Case{Name: "resource/other-key", Ref: "trustee §1.8", Level: suite.Must,
			Want: "another guest's key does not open it",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				if e := opened(ctx, p, g.attempt.key, "text/one", bearer(g.token)); e != nil {
					other, err := newKey("ECDH-ES+A256KW-P256")
					if err != nil {
						p.Fatalf("%v", err)
					}
					_, err = other.open(e)
					p.Check(err != nil, "it was opened")
				}
			}},
		suite.Case{Name: "resource/names", Ref: "trustee §2.6", Level: suite.Must, Want: "names may have all of [a-zA-Z0-9_.-]",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				opened(ctx, p, g.attempt.key, "a-b_c/D.0", bearer(g.token))
			}},
		suite.Case{Name: "resource/denied", Ref: "trustee §1.9, §2.6", Level: suite.Must,
			Want: "what the policy does not allow is 401 PolicyDeny, \"Access denied by policy\"",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				for _, path := range []string{"denied/one", "denied/none"} {
					s.resource(ctx, p, path, bearer(g.token)).refused(p, http.StatusUnauthorized,
						refusal{[]string{"PolicyDeny"}, "Access denied by policy"}, may{http.StatusForbidden, whyForbidden})
				}
			}},
		suite.Case{Name: "resource/missing", Ref: "trustee §1.9, §1.10, §8.6.2", Level: suite.Must,
			Want: "a resource that is not there is refused; 404 makes stock guests say so",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				s.resource(ctx, p, "text/none", bearer(g.token)).refused(p, http.StatusUnauthorized,
					refusal{[]string{"PluginInternalError"}, "Plugin internal error"}, may{http.StatusNotFound, whyNotFound})
			}},
		suite.Case{Name: "resource/deleted", Ref: "trustee §1.2", Level: suite.Must,
			Want: "a deleted resource is gone, a new value is served at once",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				path := prefix + "resource/" + repository + "/text/changing"
				for _, value := range []string{"old", "new"} {
					s.administer(ctx, p, http.MethodPost, path, []byte(value)).demand(p, http.StatusOK)
					if e := opened(ctx, p, g.attempt.key, "text/changing", bearer(g.token)); e != nil {
						plain, err := g.attempt.key.open(e)
						p.Check(err == nil && string(plain) == value, "%q, %v; want %q", plain, err, value)
					}
				}
				s.administer(ctx, p, http.MethodDelete, path, nil).demand(p, http.StatusOK)
				s.resource(ctx, p, "text/changing", bearer(g.token)).refused(p, http.StatusUnauthorized, refusal{},
					may{http.StatusNotFound, whyNotFound})
			}},
		suite.Case{Name: "resource/path", Ref: "trustee §2.6", Level: suite.Must,
			Want: "other than three segments, escapes and parent segments lead nowhere",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				for _, path := range []string{"text", "text/one/more", "text/one/", "text//one", "../" + repository + "/text/one",
					"text/%6fne", "text%2Fone", "text/one%00", "x/../text/one", "./text/one"} {
					s.resource(ctx, p, path, bearer(g.token)).harmless(p, path)
				}
			}},
		suite.Case{Name: "resource/query", Ref: "trustee §1.1, §2.6", Level: suite.Must,
			Want: "the query reaches the policy as data.query, name to value",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				opened(ctx, p, g.attempt.key, "asked/one?purpose=conformance&empty=", bearer(g.token))
				opened(ctx, p, g.attempt.key, "asked/one?purpose=c%6Fnformance&empty&other=%20", bearer(g.token))
				for _, query := range []string{"", "?purpose=other&empty=", "?Purpose=conformance&empty="} {
					s.resource(ctx, p, "asked/one"+query, bearer(g.token)).refused(p, http.StatusUnauthorized,
						refusal{[]string{"PolicyDeny"}, "Access denied by policy"}, may{http.StatusForbidden, whyForbidden})
				}
			}},
		suite.Case{Name: "resource/query-twice", Ref: "trustee §1.1", Level: suite.Should,
			Want: "a name that comes twice in the query collapses",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				a := s.resource(ctx, p, "text/one?a=1&a=2", bearer(g.token))
				a.demand(p, http.StatusOK, may{http.StatusBadRequest, "which of the two counts differs between programs, and a " +
					"policy might be asked about the one and a plugin do the other"})
			}},
		suite.Case{Name: "resource/policy-input", Ref: "trustee §2.6, §3.6", Level: suite.Must,
			Want: "the policy's input is the token's claims, data has plugin and resource-path",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				opened(ctx, p, g.attempt.key, "claims/one", bearer(g.token))
			}},
		suite.Case{Name: "resource/wrong-method", Ref: "trustee §1.2", Level: suite.Must,
			Want: "a guest's token changes nothing: POST, PUT and DELETE are refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				g := ready(ctx, p)
				for _, method := range []string{"POST", "PUT", "DELETE"} {
					s.ask(ctx, p, method, prefix+"resource/"+repository+"/text/one", []byte("x"), bearer(g.token)).harmless(p, method)
				}
				opened(ctx, p, g.attempt.key, "text/one", bearer(g.token))
			}},
	)
}

// forgeries are tokens that do not count, by what is wrong with them. One that does was given.
func forgeries(p *suite.Probe, token string) map[string]string {
	t, err := parseJWS(token)
	if err != nil {
		p.Fatalf("%v", err)
	}
	header, payload := strings.Split(t.signed, ".")[0], strings.Split(t.signed, ".")[1]
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.Fatalf("%v", err)
	}
	point, err := own.PublicKey.ECDH()
	if err != nil {
		p.Fatalf("%v", err)
	}
	xy := point.Bytes()[1:]
	sign := func(header map[string]any, payload string) string {
		text, err := json.Marshal(header)
		if err != nil {
			p.Fatalf("%v", err)
		}
		signed := b64url.EncodeToString(text) + "." + payload
		digest := sha256.Sum256([]byte(signed))
		r, v, err := ecdsa.Sign(rand.Reader, own, digest[:])
		if err != nil {
			p.Fatalf("%v", err)
		}
		var signature [64]byte
		r.FillBytes(signature[:32])
		v.FillBytes(signature[32:])
		return signed + "." + b64url.EncodeToString(signature[:])
	}
	embedded := maps.Clone(t.header)
	embedded["jwk"] = map[string]any{"kty": "EC", "crv": "P-256", "alg": "ES256",
		"x": b64url.EncodeToString(xy[:32]), "y": b64url.EncodeToString(xy[32:])}
	nameless := maps.Clone(embedded)
	delete(nameless, "kid")
	changed := bytes.Replace(t.payload, []byte(`"iat"`), []byte(`"xat"`), 1)
	bad := slices.Clone(t.signature)
	bad[10] ^= 1
	return map[string]string{
		"garbage":                        "x",
		"empty parts":                    "..",
		"without a signature":            t.signed + ".",
		"with a changed signature":       t.signed + "." + b64url.EncodeToString(bad),
		"with changed claims":            header + "." + b64url.EncodeToString(changed) + "." + b64url.EncodeToString(t.signature),
		"of alg none":                    b64url.EncodeToString([]byte(`{"alg":"none"}`)) + "." + payload + ".",
		"signed by an embedded key":      sign(embedded, payload),
		"signed by one without a name":   sign(nameless, payload),
		"signed by a key that is named":  sign(map[string]any{"alg": "ES256", "kid": t.header["kid"]}, payload),
		"signed by a key at an address":  sign(map[string]any{"alg": "ES256", "jku": "https://127.0.0.1:1/keys"}, payload),
		"with another algorithm's name":  b64url.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + payload + "." + b64url.EncodeToString(make([]byte, 32)),
		"with something behind it":       token + ".x",
		"with padding":                   token + "==",
		"too long":                       strings.Repeat("A", 20000),
		"a JSON serialization of itself": `{"payload":"` + payload + `","protected":"` + header + `","signature":"` + b64url.EncodeToString(t.signature) + `"}`,
	}
}
