// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

var algorithms = []Algorithm{ECDHP256, ECDHP521, RSAOAEP256}

func newKey(t testing.TB, algorithm Algorithm) *TEEKey {
	t.Helper()
	key, err := GenerateTEEKey(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sealTo(t testing.TB, key *TEEKey, plaintext string) *Envelope {
	t.Helper()
	e, err := Seal(key.Public(), []byte(plaintext))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEnvelopeOpens(t *testing.T) {
	for _, algorithm := range algorithms {
		key := newKey(t, algorithm)
		for _, plaintext := range []string{"", "p", "a password", strings.Repeat("long ", 100_000)} {
			text, err := json.Marshal(sealTo(t, key, plaintext))
			if err != nil {
				t.Fatal(err)
			}
			e, err := ParseEnvelope(text)
			if err != nil {
				t.Fatalf("%s: %v", algorithm, err)
			}
			got, err := key.Open(e)
			if err != nil || string(got.Reveal()) != plaintext {
				t.Errorf("%s: %d bytes came back, want %d: %v", algorithm, got.Len(), len(plaintext), err)
			}
		}
	}
}

func TestEnvelopeHeaderIsExact(t *testing.T) {
	for algorithm, want := range map[Algorithm]string{
		ECDHP256:   `{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-256","kty":"EC","x":"","y":""}}`,
		ECDHP521:   `{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-521","kty":"EC","x":"","y":""}}`,
		RSAOAEP256: `{"alg":"RSA-OAEP-256","enc":"A256GCM"}`,
	} {
		e := sealTo(t, newKey(t, algorithm), "p")
		raw, err := base64.RawURLEncoding.DecodeString(e.Protected)
		if err != nil {
			t.Fatal(err)
		}
		var parsed struct{ EPK struct{ X, Y string } }
		if err := json.Unmarshal(raw, &parsed); err != nil {
			t.Fatal(err)
		}
		got := string(raw)
		if parsed.EPK.X != "" {
			if coordinate, _ := decodeBase64URL(parsed.EPK.X); algorithm == ECDHP521 && len(coordinate) != 66 {
				t.Errorf("%s: a coordinate of %d bytes", algorithm, len(coordinate))
			}
			got = strings.Replace(strings.Replace(got, parsed.EPK.X, "", 1), parsed.EPK.Y, "", 1)
		}
		if got != want {
			t.Errorf("%s: header %s, want %s", algorithm, got, want)
		}
	}
}

// A library that knows the standard opens our envelopes, and we open what it makes: neither side's reading is private.
func TestEnvelopeInteroperatesWithGoJOSE(t *testing.T) {
	for _, algorithm := range algorithms {
		key := newKey(t, algorithm)
		text, err := json.Marshal(sealTo(t, key, "a password"))
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := jose.ParseEncryptedJSON(string(text), []jose.KeyAlgorithm{jose.ECDH_ES_A256KW, jose.RSA_OAEP_256},
			[]jose.ContentEncryption{jose.A256GCM})
		if err != nil {
			t.Fatalf("%s: %v", algorithm, err)
		}
		private, public, jwa := joseKey(t, key)
		if got, err := parsed.Decrypt(private); err != nil || string(got) != "a password" {
			t.Errorf("%s: go-jose opened %q, %v", algorithm, got, err)
		}
		encrypter, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jwa, Key: public}, nil)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := encrypter.Encrypt([]byte("another password"))
		if err != nil {
			t.Fatal(err)
		}
		e, err := ParseEnvelope([]byte(theirs.FullSerialize()))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := key.Open(e); err != nil || string(got.Reveal()) != "another password" {
			t.Errorf("%s: we opened %q of go-jose's, %v", algorithm, got.Reveal(), err)
		}
	}
}

func joseKey(t *testing.T, key *TEEKey) (private, public any, algorithm jose.KeyAlgorithm) {
	t.Helper()
	if key.rsa != nil {
		return key.rsa, &key.rsa.PublicKey, jose.RSA_OAEP_256
	}
	jwk := map[string]any{"kty": "EC", "crv": key.public.CRV, "x": key.public.X, "y": key.public.Y,
		"d": encodeBase64URL(key.ecdh.Bytes())}
	text, err := json.Marshal(jwk)
	if err != nil {
		t.Fatal(err)
	}
	var parsed jose.JSONWebKey
	if err := json.Unmarshal(text, &parsed); err != nil {
		t.Fatal(err)
	}
	return parsed.Key, parsed.Public().Key, jose.ECDH_ES_A256KW
}

// stockOpen opens an envelope as stock guests do. They do not authenticate the protected header that they received:
// they parse it, and authenticate what they get when they write it again, alg and enc first, the other members sorted.
func stockOpen(key *TEEKey, e *Envelope) ([]byte, error) {
	decode := func(s string) []byte { raw, _ := base64.RawURLEncoding.DecodeString(s); return raw }
	var header map[string]any
	if err := json.Unmarshal(decode(e.Protected), &header); err != nil {
		return nil, err
	}
	alg, _ := json.Marshal(header["alg"])
	enc, _ := json.Marshal(header["enc"])
	rewritten := fmt.Sprintf(`{"alg":%s,"enc":%s`, alg, enc)
	for _, name := range slices.Sorted(maps.Keys(header)) {
		if name != "alg" && name != "enc" {
			value, _ := json.Marshal(header[name]) // sorts the members of maps
			rewritten += fmt.Sprintf(`,%q:%s`, name, value)
		}
	}
	rewritten += "}"
	var cek []byte
	if key.rsa != nil {
		var err error
		if cek, err = rsa.DecryptOAEP(sha256.New(), nil, key.rsa, decode(e.EncryptedKey), nil); err != nil {
			return nil, err
		}
	} else {
		epk := header["epk"].(map[string]any)
		point := append([]byte{4}, append(decode(epk["x"].(string)), decode(epk["y"].(string))...)...)
		public, err := map[string]ecdh.Curve{"P-256": ecdh.P256(), "P-521": ecdh.P521()}[epk["crv"].(string)].NewPublicKey(point)
		if err != nil {
			return nil, err
		}
		shared, err := key.ecdh.ECDH(public)
		if err != nil {
			return nil, err
		}
		// RFC 7518 section 4.6.2, written out: round, shared secret, AlgorithmID, PartyUInfo, PartyVInfo, SuppPubInfo.
		h := sha256.New()
		h.Write([]byte{0, 0, 0, 1})
		h.Write(shared)
		h.Write([]byte("\x00\x00\x00\x0eECDH-ES+A256KW\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00"))
		if cek, err = unwrapWithIndexes(h.Sum(nil), decode(e.EncryptedKey)); err != nil {
			return nil, err
		}
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	aad := base64.RawURLEncoding.EncodeToString([]byte(rewritten))
	return gcm.Open(nil, decode(e.IV), slices.Concat(decode(e.Ciphertext), decode(e.Tag)), []byte(aad))
}

// unwrapWithIndexes is RFC 3394 section 2.2.2 in its index form, with big integers in place of byte tricks.
func unwrapWithIndexes(kek, wrapped []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	n := len(wrapped)/8 - 1
	a := new(big.Int).SetBytes(wrapped[:8])
	r := make([][]byte, n+1)
	for i := 1; i <= n; i++ {
		r[i] = bytes.Clone(wrapped[8*i : 8*i+8])
	}
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			a.Xor(a, big.NewInt(int64(n*j+i)))
			in := append(a.FillBytes(make([]byte, 8)), r[i]...)
			block.Decrypt(in, in)
			a.SetBytes(in[:8])
			copy(r[i], in[8:])
		}
	}
	if fmt.Sprintf("%X", a) != "A6A6A6A6A6A6A6A6" {
		return nil, fmt.Errorf("integrity value %X", a)
	}
	return slices.Concat(r[1:]...), nil
}

func TestStockGuestsOpenOurEnvelopes(t *testing.T) {
	for _, algorithm := range algorithms {
		key := newKey(t, algorithm)
		for range 8 { // keys differ in what their coordinates begin with
			got, err := stockOpen(key, sealTo(t, key, "a password"))
			if err != nil || string(got) != "a password" {
				t.Errorf("%s: a stock guest opened %q, %v", algorithm, got, err)
			}
		}
	}
}

// The interoperability test has teeth: the library's own envelopes, correct by the standard, fail it.
func TestStockGuestsDoNotOpenEveryEnvelope(t *testing.T) {
	key := newKey(t, ECDHP256)
	_, public, jwa := joseKey(t, key)
	encrypter, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jwa, Key: public}, nil)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := encrypter.Encrypt([]byte("p"))
	if err != nil {
		t.Fatal(err)
	}
	e, err := ParseEnvelope([]byte(theirs.FullSerialize()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stockOpen(key, e); err == nil {
		t.Error("a stock guest opened an envelope whose header is not as it would write it")
	}
}

// What is authenticated is the header as received, not as we would write it.
func TestEnvelopeHeaderIsTakenVerbatim(t *testing.T) {
	key := newKey(t, ECDHP256)
	_, public, jwa := joseKey(t, key)
	encrypter, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jwa, Key: public},
		(&jose.EncrypterOptions{}).WithContentType("secret").WithHeader("zzz", map[string]any{"b": 1, "a": []int{1}}))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := encrypter.Encrypt([]byte("p"))
	if err != nil {
		t.Fatal(err)
	}
	e, err := ParseEnvelope([]byte(theirs.FullSerialize()))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := key.Open(e); err != nil || string(got.Reveal()) != "p" {
		t.Errorf("opened %q, %v", got.Reveal(), err)
	}
}

func TestAttackEnvelopeForAnotherKey(t *testing.T) {
	for _, algorithm := range algorithms {
		owner, thief := newKey(t, algorithm), newKey(t, algorithm)
		e := sealTo(t, owner, "a password")
		if _, err := owner.Open(e); err != nil {
			t.Fatalf("%s: the owner: %v", algorithm, err)
		}
		if got, err := thief.Open(e); err == nil {
			t.Errorf("%s: another key opened %q", algorithm, got.Reveal())
		}
	}
}

// flip changes one bit of a base64url text's bytes.
func flip(t *testing.T, text string) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) == 0 {
		t.Fatalf("%q: %v", text, err)
	}
	raw[len(raw)/2] ^= 4
	return encodeBase64URL(raw)
}

func TestAttackEnvelopeChanged(t *testing.T) {
	for _, algorithm := range algorithms {
		key := newKey(t, algorithm)
		for part, change := range map[string]func(*Envelope){
			"encrypted_key": func(e *Envelope) { e.EncryptedKey = flip(t, e.EncryptedKey) },
			"iv":            func(e *Envelope) { e.IV = flip(t, e.IV) },
			"ciphertext":    func(e *Envelope) { e.Ciphertext = flip(t, e.Ciphertext) },
			"tag":           func(e *Envelope) { e.Tag = flip(t, e.Tag) },
		} {
			e := sealTo(t, key, "a password")
			if change(e); e == nil {
				t.Fatal()
			}
			if got, err := key.Open(e); err == nil {
				t.Errorf("%s: %s changed: opened %q", algorithm, part, got.Reveal())
			}
		}
	}
}

// The header is authenticated as text: the same header with a space in it, or with one more member, does not pass.
func TestAttackEnvelopeHeaderChanged(t *testing.T) {
	for _, algorithm := range algorithms {
		key := newKey(t, algorithm)
		for name, change := range map[string]func(string) string{
			"a space":         func(h string) string { return strings.Replace(h, ",", ", ", 1) },
			"one more member": func(h string) string { return strings.Replace(h, "}", `,"kid":"1"}`, 1) },
		} {
			e := sealTo(t, key, "a password")
			raw, err := base64.RawURLEncoding.DecodeString(e.Protected)
			if err != nil {
				t.Fatal(err)
			}
			if name == "one more member" && algorithm != RSAOAEP256 { // not into epk
				raw = []byte(`{"kid":"1",` + string(raw[1:]))
			} else {
				raw = []byte(change(string(raw)))
			}
			e.Protected = encodeBase64URL(raw)
			if got, err := key.Open(e); err == nil {
				t.Errorf("%s: header with %s: opened %q", algorithm, name, got.Reveal())
			}
		}
	}
}

func TestEnvelopeRefuses(t *testing.T) {
	key := newKey(t, ECDHP256)
	valid := sealTo(t, key, "a password")
	rawHeader, err := base64.RawURLEncoding.DecodeString(valid.Protected)
	if err != nil {
		t.Fatal(err)
	}
	header := string(rawHeader)
	with := func(text string) func(*Envelope) {
		return func(e *Envelope) { e.Protected = encodeBase64URL([]byte(text)) }
	}
	swap := func(old, replacement string) func(*Envelope) {
		return with(strings.Replace(header, old, replacement, 1))
	}
	for name, change := range map[string]func(*Envelope){
		"empty":                  func(e *Envelope) { *e = Envelope{} },
		"header not base64url":   func(e *Envelope) { e.Protected += "=" },
		"header not JSON":        with("alg"),
		"header an array":        with("[]"),
		"header too long":        with(`{"pad":"` + strings.Repeat("a", maxJWKSize) + `",` + header[1:]),
		"alg twice":              with(`{"alg":"dir",` + header[1:]),
		"alg dir":                swap(`"ECDH-ES+A256KW"`, `"dir"`),
		"alg RSA1_5":             swap(`"ECDH-ES+A256KW"`, `"RSA1_5"`),
		"alg of another key":     swap(`"ECDH-ES+A256KW"`, `"RSA-OAEP-256"`),
		"enc without a tag":      swap(`"A256GCM"`, `"A256CBC-HS512"`),
		"no enc":                 swap(`"enc"`, `"ENC"`),
		"critical header":        with(`{"crit":["exp"],` + header[1:]),
		"compressed":             with(`{"zip":"DEF",` + header[1:]),
		"party info":             with(`{"apu":"QWxpY2U",` + header[1:]),
		"no epk":                 swap(`"epk"`, `"EPK"`),
		"epk on another curve":   swap(`"P-256"`, `"P-521"`),
		"epk of another type":    swap(`"EC"`, `"OKP"`),
		"epk off the curve":      swap(`"y":"`, `"y":"AA`),
		"epk null":               with(`{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":null}`),
		"short iv":               func(e *Envelope) { e.IV = encodeBase64URL(make([]byte, 11)) },
		"long iv":                func(e *Envelope) { e.IV = encodeBase64URL(make([]byte, 16)) },
		"no iv":                  func(e *Envelope) { e.IV = "" },
		"short tag":              func(e *Envelope) { e.Tag = encodeBase64URL(make([]byte, 4)) },
		"no tag":                 func(e *Envelope) { e.Tag = "" },
		"no key":                 func(e *Envelope) { e.EncryptedKey = "" },
		"short key":              func(e *Envelope) { e.EncryptedKey = encodeBase64URL(make([]byte, 24)) },
		"long key":               func(e *Envelope) { e.EncryptedKey = encodeBase64URL(make([]byte, 8<<10)) },
		"key not base64url":      func(e *Envelope) { e.EncryptedKey = "*" },
		"ciphertext with breaks": func(e *Envelope) { e.Ciphertext += "\n" },
	} {
		e := *valid
		change(&e)
		if got, err := key.Open(&e); err == nil {
			t.Errorf("%s: opened %q", name, got.Reveal())
		} else if strings.Contains(err.Error(), "a password") {
			t.Errorf("%s: the error shows the secret", name)
		}
	}
}

func TestParseEnvelopeRefuses(t *testing.T) {
	valid, err := json.Marshal(sealTo(t, newKey(t, ECDHP256), "p"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing":            "",
		"null":               "null",
		"an array":           "[]",
		"plain text":         "a password",
		"cut":                string(valid[:len(valid)/2]),
		"member missing":     strings.Replace(string(valid), `"tag"`, `"gat"`, 1),
		"member a number":    `{"protected":1,"encrypted_key":"","iv":"","ciphertext":"","tag":""}`,
		"member twice":       `{"tag":"",` + string(valid[1:]),
		"unprotected header": `{"unprotected":{"alg":"dir"},` + string(valid[1:]),
		"own header":         `{"header":{"alg":"dir"},` + string(valid[1:]),
		"recipients":         `{"recipients":[],` + string(valid[1:]),
		"more to be hashed":  `{"aad":"QQ",` + string(valid[1:]),
		"too long":           `{"pad":"` + strings.Repeat("a", MaxEnvelopeSize) + `",` + string(valid[1:]),
	} {
		if _, err := ParseEnvelope([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := ParseEnvelope([]byte(`{"aad":null,"future":1,` + string(valid[1:]))); err != nil {
		t.Errorf("unknown members: %v", err)
	}
	if _, err := Seal(newKey(t, ECDHP256).Public(), make([]byte, MaxPlaintextSize+1)); err == nil {
		t.Error("sealed more than fits")
	}
}

func TestLargestResourceFits(t *testing.T) {
	key := newKey(t, ECDHP521)
	e, err := Seal(key.Public(), make([]byte, MaxPlaintextSize))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseEnvelope(text); err != nil || len(text) > MaxResponseSize {
		t.Errorf("%d bytes of JSON: %v", len(text), err)
	}
}

func FuzzEnvelope(f *testing.F) {
	key := newKey(f, ECDHP256)
	valid, err := json.Marshal(sealTo(f, key, "p"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(valid)
	f.Add([]byte(`{"protected":"e30","encrypted_key":"","iv":"","ciphertext":"","tag":""}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := ParseEnvelope(text)
		if err != nil {
			return
		}
		again, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseEnvelope(again); err != nil || *back != *e {
			t.Fatalf("%s came back as %+v, %v", again, back, err)
		}
		if got, err := key.Open(e); err == nil && string(got.Reveal()) != "p" {
			t.Fatalf("forged %q", got.Reveal())
		}
	})
}

func FuzzJWK(f *testing.F) {
	for _, key := range []JWK{testJWK, rsaTestJWK(2048)} {
		text, err := json.Marshal(key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := ParseJWK(text)
		if err != nil {
			return
		}
		again, err := json.Marshal(key)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParseJWK(again); err != nil || back != key {
			t.Fatalf("%s came back as %+v, %v", again, back, err)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, algorithm := range algorithms {
		key := newKey(b, algorithm).Public()
		b.Run(string(algorithm), func(b *testing.B) {
			for b.Loop() {
				if _, err := Seal(key, []byte("a password")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestTEEKeyPEM(t *testing.T) {
	for algorithm, want := range map[Algorithm]string{ECDHP256: "PRIVATE KEY", ECDHP521: "PRIVATE KEY", RSAOAEP256: "RSA PRIVATE KEY"} {
		key := newKey(t, algorithm)
		text, err := key.MarshalPEM()
		if err != nil || !strings.HasPrefix(string(text.Reveal()), "-----BEGIN "+want+"-----\n") {
			t.Errorf("%s: %v", algorithm, err)
		}
		if out := fmt.Sprintf("%v %+v %#v %s", key, key, key, key); strings.Contains(out, "PRIVATE") || len(out) > 200 {
			t.Errorf("%s prints as %s", algorithm, out)
		}
	}
	if _, err := GenerateTEEKey("RSA1_5"); err == nil {
		t.Error("made a key for RSA1_5")
	}
}
