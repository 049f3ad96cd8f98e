// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdh"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/nacre-project/nacre/test/conformance/suite"
)

// attestRefusal is how evidence is refused: 401, and the words that clients know.
var attestRefusal = refusal{[]string{"AttestationError"}, attestFailed}

func (s *server) attestCases() []suite.Case {
	// deviate attests with one deviation and demands the refusal of evidence.
	deviate := func(change func(*attempt)) func(context.Context, *suite.Probe) {
		return func(ctx context.Context, p *suite.Probe) {
			a := s.attempt(ctx, p)
			change(a)
			s.attest(ctx, p, a).refused(p, http.StatusUnauthorized, attestRefusal)
		}
	}
	accept := func(change func(*attempt)) func(context.Context, *suite.Probe) {
		return func(ctx context.Context, p *suite.Probe) {
			a := s.attempt(ctx, p)
			change(a)
			s.succeed(ctx, p, a)
		}
	}
	nonceOnly := func(a *attempt) map[string]any {
		return map[string]any{"nonce": a.nonce, "tee-pubkey": a.key.public}
	}
	return []suite.Case{
		{Name: "attest/jcs-vector", Ref: "trustee §1.5, RFC 8785", Level: suite.Must,
			Want: "the suite's own canonical JSON and SHA-384 give the published vector",
			Run: func(_ context.Context, p *suite.Probe) {
				digest := sha512.Sum384(jcs(map[string]any{"b": 1, "a": "test", "c": map[string]any{"d": "e"}}))
				p.Check(hex.EncodeToString(digest[:]) == "e71ce8e70d814ba6639c3612ebee0ff1f76f650f8dbb5e47157e0f3f525cd22c"+
					"4597480a186427c813ca941da78870c3", "%x", digest)
			}},
		{Name: "attest/accepted", Ref: "trustee §1.2, §1.4, §1.5", Level: suite.Must,
			Want: "evidence bound to SHA-384 of JCS{additional-evidence, nonce, tee-pubkey} is answered by {\"token\":<JWS>}",
			Run: func(ctx context.Context, p *suite.Probe) {
				got := s.succeed(ctx, p, s.attempt(ctx, p)).answer
				p.Check(got.mediaType() == "application/json", "Content-Type %q", got.header.Get("Content-Type"))
				p.Check(slices.Equal(names(got.object(p)), []string{"token"}), "members %q", names(got.object(p)))
			}},
		{Name: "attest/cookie-again", Ref: "trustee §1.2", Level: suite.Must,
			Want: "the answer sets the session's cookie again",
			Run: func(ctx context.Context, p *suite.Probe) {
				p.Check(s.succeed(ctx, p, s.attempt(ctx, p)).answer.cookie() != nil, "no cookie %s", cookieName)
			}},
		{Name: "attest/init-data-absent", Ref: "trustee §1.4, §1.6", Level: suite.Must,
			Want: "init-data may be null or absent",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.attempt(ctx, p)
				text := s.text(ctx, p, a)
				var body map[string]json.RawMessage
				if err := json.Unmarshal(text, &body); err != nil {
					p.Fatalf("%v", err)
				}
				delete(body, "init-data")
				text, _ = json.Marshal(body)
				got := s.ask(ctx, p, http.MethodPost, prefix+"attest", text, withCookie(a.cookie))
				got.demand(p, http.StatusOK)
			}},
		{Name: "attest/init-data", Ref: "trustee §1.6, §3.8", Level: suite.Must,
			Want: "init-data whose digest the platform holds is accepted",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.attempt(ctx, p)
				s.giveInitData(a)
				if a.initData == nil {
					p.Skipf("the evidence's init-data cannot be chosen")
				}
				s.succeed(ctx, p, a)
			}},
		{Name: "attest/init-data-other", Ref: "trustee §1.6", Level: suite.Must,
			Want: "init-data other than what the guest was launched with is refused, be it by a space",
			Run: func(ctx context.Context, p *suite.Probe) {
				if s.evidence == nil || !s.evidence.bindsInitData() {
					p.Skipf("the evidence binds no init-data")
				}
				for _, change := range []func(string) string{
					func(t string) string { return t + " " },
					func(t string) string { return strings.Replace(t, "8080", "8081", 1) },
					func(t string) string { return strings.Replace(t, "sha256", "sha384", 1) },
				} {
					a := s.attempt(ctx, p)
					s.giveInitData(a)
					other := change(*a.initData)
					a.initData = &other
					s.attest(ctx, p, a).refused(p, http.StatusUnauthorized, attestRefusal)
				}
			}},
		{Name: "attest/init-data-malformed", Ref: "trustee §1.4, §1.6", Level: suite.Must,
			Want: "init-data of another format, or that cannot be read, is refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				for name, member := range map[string]any{
					"format": map[string]any{"format": "json", "body": "{}"},
					"toml":   map[string]any{"format": "toml", "body": "version = "},
					"algorithm": map[string]any{"format": "toml",
						"body": "version = \"0.1.0\"\nalgorithm = \"md5\"\n[data]\n"},
					"body": map[string]any{"format": "toml"}, "type": "text", "empty": map[string]any{},
				} {
					a := s.attempt(ctx, p)
					a.body = map[string]any{"init-data": member}
					s.attest(ctx, p, a).harmless(p, name)
				}
			}},
		{Name: "attest/extra-members", Ref: "trustee §1.4", Level: suite.Should,
			Want: "members that the protocol does not know are skipped",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.attempt(ctx, p)
				evidence, err := s.evidence.evidence(ctx, reportData(a.nonce, a.key.public, ""), nil)
				if err != nil {
					p.Fatalf("%v", err)
				}
				a.body = map[string]any{
					"future":       []any{1},
					"runtime-data": map[string]any{"nonce": a.nonce, "tee-pubkey": a.key.public, "future": "x"},
					"tee-evidence": map[string]any{"primary_evidence": evidence, "additional_evidence": "", "future": nil},
				}
				s.succeed(ctx, p, a)
			}},
		{Name: "attest/key-extra-members", Ref: "trustee §1.5", Level: suite.Must,
			Want: "members of the key that the protocol does not know are not hashed",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.attempt(ctx, p)
				a.bound = reportData(a.nonce, a.key.public, "")
				more := map[string]any{"kid": "1", "use": "enc", "key_ops": []string{"deriveBits"}, "future": map[string]any{}}
				maps.Copy(more, a.key.public)
				a.body = map[string]any{"runtime-data": map[string]any{"nonce": a.nonce, "tee-pubkey": more}}
				s.succeed(ctx, p, a)
			}},
		{Name: "attest/no-cookie", Ref: "trustee §1.7", Level: suite.Must, Want: "without a session it is 401",
			Run: func(ctx context.Context, p *suite.Probe) {
				s.ask(ctx, p, http.MethodPost, prefix+"attest", []byte("{}")).refused(p, http.StatusUnauthorized, attestRefusal)
			}},
		{Name: "attest/cookie-unknown", Ref: "trustee §1.7", Level: suite.Must, Want: "an unknown session is 401",
			Run: func(ctx context.Context, p *suite.Probe) {
				if s.evidence == nil {
					p.Skipf("%v", errNoEvidence)
				}
				for _, value := range []string{"", "x", strings.Repeat("0", 32), "0f8fad5bd9cb469fa16570867728950e",
					strings.Repeat("A", 200), "../../etc/passwd", strings.Repeat("f", 4000)} {
					a := s.attempt(ctx, p)
					a.cookie = value
					s.attest(ctx, p, a).refused(p, http.StatusUnauthorized, attestRefusal)
				}
				a := s.attempt(ctx, p)
				changed := []byte(a.cookie)
				changed[len(changed)/2] ^= 1
				a.cookie = string(changed)
				s.attest(ctx, p, a).refused(p, http.StatusUnauthorized, attestRefusal)
			}},
		{Name: "attest/nonce-other", Ref: "trustee §1.4", Level: suite.Must,
			Want: "a nonce other than the session's is 401, though the evidence is bound to it",
			Run: func(ctx context.Context, p *suite.Probe) {
				other := s.attempt(ctx, p)
				deviate(func(a *attempt) { a.nonce = other.nonce })(ctx, p)
				deviate(func(a *attempt) { a.nonce = "" })(ctx, p)
				deviate(func(a *attempt) { a.nonce += "=" })(ctx, p)
				deviate(func(a *attempt) { a.nonce = strings.TrimRight(a.nonce, "=") })(ctx, p)
				deviate(func(a *attempt) { a.nonce = " " + a.nonce })(ctx, p)
			}},
		{Name: "attest/bound-nonce", Ref: "trustee §1.5", Level: suite.Must, Want: "evidence bound to another nonce is 401",
			Run: deviate(func(a *attempt) {
				a.bound = reportData(base64.StdEncoding.EncodeToString(make([]byte, 32)), a.key.public, "")
			})},
		{Name: "attest/bound-key", Ref: "trustee §1.5", Level: suite.Must, Want: "evidence bound to another key is 401",
			Run: deviate(func(a *attempt) {
				other, err := newKey("ECDH-ES+A256KW-P256")
				if err == nil {
					a.bound, a.key = reportData(a.nonce, a.key.public, ""), other
				}
			})},
		{Name: "attest/bound-form", Ref: "trustee §1.5", Level: suite.Must,
			Want: "evidence bound to another digest of the right data is 401",
			Run: func(ctx context.Context, p *suite.Probe) {
				full := func(a *attempt) []byte {
					return jcs(map[string]any{"nonce": a.nonce, "tee-pubkey": a.key.public, "additional-evidence": ""})
				}
				for name, bound := range map[string]func(*attempt) []byte{
					"SHA-256":                  func(a *attempt) []byte { d := sha256.Sum256(full(a)); return d[:] },
					"SHA-512":                  func(a *attempt) []byte { d := sha512.Sum512(full(a)); return d[:] },
					"without the third member": func(a *attempt) []byte { d := sha512.Sum384(jcs(nonceOnly(a))); return d[:] },
					"not canonical":            func(a *attempt) []byte { d := sha512.Sum384(append(full(a), '\n')); return d[:] },
					"zeros":                    func(*attempt) []byte { return make([]byte, 48) },
					"the first half": func(a *attempt) []byte {
						d := sha512.Sum384(full(a))
						return append(d[:24:24], make([]byte, 24)...)
					},
				} {
					a := s.attempt(ctx, p)
					a.bound = bound(a)
					before := p.Failed()
					if s.attest(ctx, p, a).refused(p, http.StatusUnauthorized, attestRefusal); p.Failed() && !before {
						p.Failf("bound by %s", name)
					}
				}
			}},
		{Name: "attest/bound-padding", Ref: "trustee §1.5", Level: suite.Must,
			Want: "the report data after the digest must be zeros",
			Run: func(ctx context.Context, p *suite.Probe) {
				if s.tee() != "snp" && s.tee() != "tdx" {
					p.Skipf("for platforms with report data of 64 bytes")
				}
				deviate(func(a *attempt) { a.bound = append(reportData(a.nonce, a.key.public, ""), 0, 1) })(ctx, p)
			}},
		{Name: "attest/additional-empty", Ref: "trustee §1.4, §1.5", Level: suite.Should,
			Want: "additional evidence of no device, \"{}\", is hashed as it is and accepted",
			Run:  accept(func(a *attempt) { a.additional = "{}" })},
		{Name: "attest/additional-bound", Ref: "trustee §1.5", Level: suite.Must,
			Want: "additional evidence that was not hashed is 401",
			Run: deviate(func(a *attempt) {
				a.bound = reportData(a.nonce, a.key.public, "")
				a.additional = "{}"
			})},
		{Name: "attest/additional-unknown", Ref: "trustee §1.4", Level: suite.Must,
			Want: "evidence of a device that is not known, or that is not evidence, is refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, additional := range []string{`{"toaster":{}}`, `{"nvidia":{}}`, `[]`, `{`, `"x"`,
					`{"nvidia":{"device_evidence_list":[]}}`} {
					a := s.attempt(ctx, p)
					a.additional = additional
					s.attest(ctx, p, a).harmless(p, additional)
				}
			}},
		{Name: "attest/evidence-malformed", Ref: "trustee §1.7", Level: suite.Must,
			Want: "evidence that cannot be read is refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				for _, evidence := range []string{`{}`, `"x"`, `[]`, `0`, `{"attestation_report":null,"cert_chain":null}`,
					`{"quote":"AAAA"}`} {
					a := s.attempt(ctx, p)
					a.evidence = json.RawMessage(evidence)
					s.attest(ctx, p, a).refused(p, http.StatusUnauthorized, attestRefusal, may{http.StatusBadRequest, whyBadRequest})
				}
			}},
		{Name: "attest/evidence-tampered", Ref: "trustee §3.8", Level: suite.Must,
			Want: "evidence of which one bit was changed is refused",
			Run: func(ctx context.Context, p *suite.Probe) {
				if s.tee() != "snp" || s.evidence == nil {
					p.Skipf("the suite knows how to change SEV-SNP evidence only")
				}
				for _, field := range []string{"measurement", "host_data", "chip_id", "report_id", "family_id"} {
					a := s.attempt(ctx, p)
					raw, err := s.evidence.evidence(ctx, reportData(a.nonce, a.key.public, ""), nil)
					if err != nil {
						p.Fatalf("%v", err)
					}
					var document map[string]any
					if err := json.Unmarshal(raw, &document); err != nil {
						p.Fatalf("%v", err)
					}
					report, _ := document["attestation_report"].(map[string]any)
					bytes, ok := report[field].([]any)
					if !ok {
						p.Fatalf("no field %s", field)
					}
					bytes[0] = float64(int(bytes[0].(float64)) ^ 1)
					a.evidence = document
					s.attest(ctx, p, a).refused(p, http.StatusUnauthorized, attestRefusal)
				}
			}},
		{Name: "attest/body-malformed", Ref: "trustee §1.9", Level: suite.Must,
			Want: "a body that is not the message is refused, and the server goes on",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.attempt(ctx, p)
				good := string(s.text(ctx, p, a))
				for _, body := range []string{"", "{}", "[]", "null", good[:len(good)-1], good + "x", "\xff",
					strings.Replace(good, "runtime-data", "runtime_data", 1), strings.Replace(good, "tee-evidence", "tee_evidence", 1),
					strings.Replace(good, "primary_evidence", "primary-evidence", 1),
					strings.Replace(good, "additional_evidence", "additional-evidence", 1),
					strings.Replace(good, "tee-pubkey", "tee_pubkey", 1)} {
					s.ask(ctx, p, http.MethodPost, prefix+"attest", []byte(body), withCookie(a.cookie)).
						harmless(p, fmt.Sprintf("%.20q… of %d bytes", body, len(body)))
				}
				s.succeed(ctx, p, a)
			}},
		{Name: "attest/again-after-failure", Ref: "trustee §1.7", Level: suite.Must,
			Want: "a refused attestation leaves the session to be used",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.attempt(ctx, p)
				a.bound = make([]byte, 48)
				s.attest(ctx, p, a).refused(p, http.StatusUnauthorized, attestRefusal)
				a.bound = nil
				s.succeed(ctx, p, a)
			}},
		{Name: "attest/again-after-success", Ref: "trustee §1.7, §8.6.2", Level: suite.Must,
			Want: "an attested session answers with its token again",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.attempt(ctx, p)
				first := s.succeed(ctx, p, a)
				again := s.attest(ctx, p, a)
				if again.status == http.StatusOK {
					p.Check(again.object(p)["token"] == first.token, "another token")
					return
				}
				again.refused(p, http.StatusOK, attestRefusal, may{http.StatusUnauthorized,
					"a nonce is used up by the first evidence that is accepted; the session goes on serving resources"})
			}},
		{Name: "attest/at-once", Ref: "trustee §1.7", Level: suite.Must,
			Want: "of several attestations in one session at the same time one at least succeeds, and none harms the server",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.attempt(ctx, p)
				text := s.text(ctx, p, a)
				answers := make(chan *answer, 8)
				for range cap(answers) {
					go func() {
						got, err := s.send(ctx, http.MethodPost, prefix+"attest", text, withCookie(a.cookie))
						if err != nil {
							got = &answer{what: "POST attest", body: []byte(err.Error())}
						}
						answers <- got
					}()
				}
				tokens := map[any]bool{}
				for range cap(answers) {
					got := <-answers
					if got.status == http.StatusOK {
						tokens[got.object(p)["token"]] = true
						continue
					}
					got.harmless(p, "one of several")
				}
				p.Check(len(tokens) == 1, "%d different tokens for one nonce", len(tokens))
			}},
		{Name: "attest/chunked", Ref: "RFC 9112 §7.1", Level: suite.Must,
			Want: "a body of unknown length, in chunks, is read",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.attempt(ctx, p)
				got := s.ask(ctx, p, http.MethodPost, prefix+"attest", s.text(ctx, p, a), withCookie(a.cookie),
					func(r *http.Request) { r.ContentLength = -1 })
				got.demand(p, http.StatusOK)
			}},
		{Name: "attest/replay", Ref: "trustee §1.4", Level: suite.Must,
			Want: "an attestation that was accepted is refused in another session",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.attempt(ctx, p)
				text := s.text(ctx, p, a)
				s.ask(ctx, p, http.MethodPost, prefix+"attest", text, withCookie(a.cookie)).demand(p, http.StatusOK)
				_, cookie, err := s.challenge(ctx)
				if err != nil {
					p.Fatalf("%v", err)
				}
				s.ask(ctx, p, http.MethodPost, prefix+"attest", text, withCookie(cookie)).
					refused(p, http.StatusUnauthorized, attestRefusal)
			}},
		{Name: "attest/two-cookies", Ref: "RFC 6265 §5.4", Level: suite.Should,
			Want: "other cookies beside the session's do no harm",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.attempt(ctx, p)
				got := s.ask(ctx, p, http.MethodPost, prefix+"attest", s.text(ctx, p, a), func(r *http.Request) {
					r.Header.Set("Cookie", "first=1; "+cookieName+"="+a.cookie+"; last=\"x y\"")
				})
				got.demand(p, http.StatusOK)
			}},
		{Name: "attest/body-limit", Ref: "trustee §1.1, §2.2", Level: suite.Must,
			Want: "a body within the limit is read, one over it is 413",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.attempt(ctx, p)
				text := s.text(ctx, p, a)
				padded := append(text, strings.Repeat(" ", int(s.options.bodyLimit)-len(text))...)
				s.ask(ctx, p, http.MethodPost, prefix+"attest", padded, withCookie(a.cookie)).demand(p, http.StatusOK)
				_, cookie, err := s.challenge(ctx)
				if err != nil {
					p.Fatalf("%v", err)
				}
				s.tooLong(ctx, p, prefix+"attest", withCookie(cookie))
			}},
	}
}

// keyCases are about the TEE public key (trustee §1.8).
func (s *server) keyCases() []suite.Case {
	with := func(change func(map[string]any)) func(*attempt) {
		return func(a *attempt) {
			other := maps.Clone(a.key.public)
			change(other)
			a.key = &teeKey{public: other}
		}
	}
	var list []suite.Case
	for _, kind := range []string{"ECDH-ES+A256KW-P256", "ECDH-ES+A256KW-P521", "RSA-OAEP-256"} {
		list = append(list, suite.Case{Name: "key/" + kind, Ref: "trustee §1.8", Level: suite.Must,
			Want: "a key of this kind is accepted",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.attempt(ctx, p)
				var err error
				if a.key, err = newKey(kind); err != nil {
					p.Fatalf("%v", err)
				}
				s.succeed(ctx, p, a)
			}})
	}
	return append(list,
		suite.Case{Name: "key/RSA1_5", Ref: "trustee §1.8", Level: suite.Should,
			Want: "a key with alg RSA1_5 is still accepted by stock servers, deprecated",
			Run: func(ctx context.Context, p *suite.Probe) {
				a := s.attempt(ctx, p)
				var err error
				if a.key, err = newRSAKey(2048, "RSA1_5"); err != nil {
					p.Fatalf("%v", err)
				}
				const why = "PKCS #1 v1.5 lets whoever can ask the guest decrypt; no stock guest is configured with it"
				s.attest(ctx, p, a).demand(p, http.StatusOK, may{http.StatusUnauthorized, why}, may{http.StatusBadRequest, why})
			}},
		suite.Case{Name: "key/refused", Ref: "trustee §1.8", Level: suite.Should,
			Want: "a key that nothing can be encrypted to is refused when it attests, not when a resource is asked for",
			Run: func(ctx context.Context, p *suite.Probe) {
				for name, change := range map[string]func(map[string]any){
					"no kty":         func(k map[string]any) { delete(k, "kty") },
					"no alg":         func(k map[string]any) { delete(k, "alg") },
					"another alg":    func(k map[string]any) { k["alg"] = "ECDH-ES" },
					"another curve":  func(k map[string]any) { k["crv"] = "P-384" },
					"off the curve":  func(k map[string]any) { k["x"] = b64url.EncodeToString(append(make([]byte, 31), 1)) },
					"the zero point": func(k map[string]any) { k["x"] = b64url.EncodeToString(make([]byte, 32)); k["y"] = k["x"] },
					"short":          func(k map[string]any) { k["x"] = b64url.EncodeToString(make([]byte, 31)) },
					"no y":           func(k map[string]any) { delete(k, "y") },
					"symmetric":      func(k map[string]any) { clear(k); k["kty"] = "oct"; k["k"] = "AAAA" },
				} {
					a := s.attempt(ctx, p)
					with(change)(a)
					s.attest(ctx, p, a).harmless(p, name)
				}
				a := s.attempt(ctx, p)
				key, err := newECKey(ecdh.P384(), "P-384")
				if err != nil {
					p.Fatalf("%v", err)
				}
				a.key = key
				s.attest(ctx, p, a).harmless(p, "P-384")
			}})
}
