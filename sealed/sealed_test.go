// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/secret"
)

const password = "a password that no error may show"

// trustee is what a guest may fetch, by URI, and what it has fetched.
type trustee struct {
	resources map[string][]byte
	asked     []string
}

var errNotFound = errors.New("no such resource")

func (t *trustee) Resource(_ context.Context, uri kbs.ResourceURI) (secret.Bytes, error) {
	t.asked = append(t.asked, uri.String())
	value, ok := t.resources[uri.String()]
	if !ok {
		return secret.Bytes{}, errNotFound
	}
	return secret.New(append([]byte{}, value...)), nil
}

const (
	keyURI   = "kbs:///default/sealing/key"
	otherURI = "kbs:///default/sealing/other"
	valueURI = "kbs:///default/db/password"
	kekURI   = "kbs:///default/sealing/kek"
)

func uri(t testing.TB, text string) kbs.ResourceURI {
	t.Helper()
	u, err := kbs.ParseResourceURI(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func newSigner(t testing.TB, kid string) Signer {
	t.Helper()
	key, err := NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	return Signer{kid, key}
}

// world is a trustee with two signers' keys, a secret, and a key encryption key; both signers are pinned.
type world struct {
	*trustee
	signer, other Signer
	kek           secret.Bytes
	pins          Pins
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		trustee: &trustee{resources: map[string][]byte{valueURI: []byte(password)}},
		signer:  newSigner(t, keyURI), other: newSigner(t, otherURI), kek: NewKey(),
		pins: Pins{Resources: []kbs.ResourceURI{uri(t, keyURI), uri(t, otherURI)}},
	}
	w.resources[kekURI] = w.kek.Reveal()
	for _, s := range []Signer{w.signer, w.other} {
		jwk, err := s.Key.Verifying().JWK(s.KeyID)
		if err != nil {
			t.Fatal(err)
		}
		w.resources[s.KeyID] = jwk
	}
	return w
}

func (w *world) vault(t testing.TB) string {
	t.Helper()
	text, err := w.signer.SealVault(uri(t, valueURI))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (w *world) envelope(t testing.TB) string {
	t.Helper()
	text, err := w.signer.SealEnvelope(uri(t, kekURI), w.kek, secret.New([]byte(password)))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// refused demands a refusal with a code, and that it does not show the secret.
func (w *world) refused(t *testing.T, text string, code Code) {
	t.Helper()
	value, err := Open(t.Context(), text, w.pins, w)
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != code || value.Len() != 0 {
		t.Errorf("%v (%d bytes), want %s", err, value.Len(), code)
	}
	if err != nil && strings.Contains(err.Error(), password) {
		t.Errorf("the error shows the secret: %v", err)
	}
}

func TestOpen(t *testing.T) {
	w := newWorld(t)
	for name, text := range map[string]string{"vault": w.vault(t), "envelope": w.envelope(t)} {
		value, err := Open(t.Context(), text, w.pins, w)
		if err != nil || string(value.Reveal()) != password {
			t.Errorf("%s: %v", name, err)
		}
		s, err := Parse(text)
		if err != nil || s.KeyID != keyURI || s.Format() != text {
			t.Errorf("%s: %v", name, err)
		}
	}
	if strings.Contains(w.envelope(t), base64.RawURLEncoding.EncodeToString([]byte(password))[:20]) {
		t.Error("the envelope shows its value")
	}
	// A key that is known here is not asked for.
	pins := Pins{Keys: map[string]VerifyingKey{"local": w.other.Key.Verifying()}}
	w.asked = nil
	text, err := Signer{"local", w.other.Key}.SealVault(uri(t, valueURI))
	if err != nil {
		t.Fatal(err)
	}
	if value, err := Open(t.Context(), text, pins, w); err != nil || string(value.Reveal()) != password || len(w.asked) != 1 {
		t.Errorf("%v, asked for %q", err, w.asked)
	}
	// The host in a URI is no part of the name.
	if text, err = (Signer{"kbs://elsewhere:80/default/sealing/key", w.signer.Key}).SealVault(uri(t, valueURI)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), text, w.pins, w); err != nil {
		t.Error(err)
	}
}

func TestTrusteeRefuses(t *testing.T) {
	for _, gone := range []string{keyURI, valueURI} {
		w := newWorld(t)
		text := w.vault(t)
		delete(w.resources, gone)
		if _, err := Open(t.Context(), text, w.pins, w); !errors.Is(err, errNotFound) {
			t.Errorf("%s: %v", gone, err)
		}
	}
}

// jws signs any header and payload.
func jws(t *testing.T, key SigningKey, header, payload string) string {
	t.Helper()
	input := encode([]byte(header)) + "." + encode([]byte(payload))
	digest := sha256.Sum256([]byte(input))
	r, s, err := ecdsa.Sign(rand.Reader, key.private, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, signatureSize)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return Prefix + input + "." + encode(signature)
}

const (
	goodHeader  = `{"alg":"ES256","kid":"` + keyURI + `"}`
	goodPayload = `{"version":"0.1.0","type":"vault","name":"` + valueURI + `","provider":"kbs","provider_settings":{},"annotations":{}}`
)

// A sealed secret that names a key which nobody pinned: whoever could put a key anywhere below the trustee, or has one of the
// many that guests may read there, could otherwise seal what he likes. The stock hub takes it (weakness W5).
func TestAttackKeyThatIsNotPinned(t *testing.T) {
	mallory := newSigner(t, "")
	for name, kid := range map[string]string{
		"another resource":          "kbs:///default/mallory/key",
		"another plugin":            "kbs+mallory:///default/sealing/key",
		"a query":                   keyURI + "?version=2",
		"a file":                    "mallory",
		"a path":                    "../mallory",
		"a pinned one, and more":    keyURI + "/x",
		"one that differs in case":  "kbs:///default/sealing/Key",
		"a pinned one by its tail":  "x" + keyURI,
		"a URI of another protocol": "https://mallory/key",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			mallory.KeyID = kid
			jwk, err := mallory.Key.Verifying().JWK(kid)
			if err != nil {
				t.Fatal(err)
			}
			w.resources[kid] = jwk
			text, err := mallory.SealVault(uri(t, valueURI))
			if err != nil {
				t.Fatal(err)
			}
			w.refused(t, text, KeyNotPinned)
			if len(w.asked) != 0 {
				t.Errorf("asked for %q", w.asked)
			}
		})
	}
	t.Run("nothing is pinned", func(t *testing.T) {
		w := newWorld(t)
		w.pins = Pins{}
		w.refused(t, w.vault(t), KeyNotPinned)
	})
}

// Headers that choose how, or by which key, they are verified.
func TestAttackHeader(t *testing.T) {
	w := newWorld(t)
	mallory := newSigner(t, keyURI)
	jwk, err := mallory.Key.Verifying().JWK(keyURI)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		header string
		code   Code
	}{
		"alg none":           {`{"alg":"none","kid":"` + keyURI + `"}`, AlgorithmUnsupported},
		"alg HS256":          {`{"alg":"HS256","kid":"` + keyURI + `"}`, AlgorithmUnsupported},
		"alg ES384":          {`{"alg":"ES384","kid":"` + keyURI + `"}`, AlgorithmUnsupported},
		"alg es256":          {`{"alg":"es256","kid":"` + keyURI + `"}`, AlgorithmUnsupported},
		"no alg":             {`{"kid":"` + keyURI + `"}`, Malformed},
		"alg no string":      {`{"alg":null,"kid":"` + keyURI + `"}`, Malformed},
		"no kid":             {`{"alg":"ES256"}`, Malformed},
		"an empty kid":       {`{"alg":"ES256","kid":""}`, Malformed},
		"two kids":           {`{"alg":"ES256","kid":"mallory","kid":"` + keyURI + `"}`, Malformed},
		"kids of two cases":  {`{"alg":"ES256","Kid":"mallory","kid":"` + keyURI + `"}`, Malformed},
		"its own key":        {`{"alg":"ES256","kid":"` + keyURI + `","jwk":` + string(jwk) + `}`, Malformed},
		"a key's address":    {`{"alg":"ES256","kid":"` + keyURI + `","jku":"https://mallory/jwks"}`, Malformed},
		"certificates":       {`{"alg":"ES256","kid":"` + keyURI + `","x5c":[]}`, Malformed},
		"critical members":   {`{"alg":"ES256","kid":"` + keyURI + `","crit":["b64"],"b64":false}`, Malformed},
		"a list":             {`[]`, Malformed},
		"text behind":        {goodHeader + "{}", Malformed},
		"half of a pair":     {`{"alg":"ES256","kid":"` + keyURI + `\ud800"}`, KeyNotPinned},
		"long":               {`{"alg":"ES256","kid":"` + strings.Repeat("k", maxHeader) + `"}`, Malformed},
		"a kid that is long": {`{"alg":"ES256","kid":"` + strings.Repeat("k", maxKeyID+1) + `"}`, Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			w.asked = nil
			w.refused(t, jws(t, mallory.Key, tt.header, goodPayload), tt.code)
			w.refused(t, jws(t, w.signer.Key, tt.header, goodPayload), tt.code)
			if len(w.asked) != 0 {
				t.Errorf("asked for %q", w.asked)
			}
		})
	}
}

// Signatures that are not the pinned key's over just this.
func TestAttackSignature(t *testing.T) {
	w := newWorld(t)
	good, envelope := w.vault(t), w.envelope(t)
	parts, others := strings.Split(good, "."), strings.Split(envelope, ".")
	secretKey := w.resources[keyURI] // HS256's confusion: the public key as the secret
	mac := hmac.New(sha256.New, secretKey)
	mac.Write([]byte(parts[1] + "." + parts[2]))
	hs := mac.Sum(mac.Sum(nil))
	zero := encode(make([]byte, signatureSize))
	raw, err := decode("", parts[3])
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(parts[1] + "." + parts[2]))
	der, err := ecdsa.SignASN1(rand.Reader, w.signer.Key.private, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	changed := append([]byte{}, raw...)
	changed[40] ^= 1
	join := func(header, payload, signature string) string {
		return Prefix + header + "." + payload + "." + signature
	}
	for name, tt := range map[string]struct {
		text string
		code Code
	}{
		"another pinned key's holder":   {jws(t, w.other.Key, goodHeader, goodPayload), SignatureInvalid},
		"nobody's":                      {join(parts[1], parts[2], zero), SignatureInvalid},
		"a MAC under the public key":    {join(parts[1], parts[2], encode(hs[:signatureSize])), SignatureInvalid},
		"one bit":                       {join(parts[1], parts[2], encode(changed)), SignatureInvalid},
		"the payload of another secret": {join(parts[1], others[2], parts[3]), SignatureInvalid},
		"the header of another key":     {join(encode([]byte(`{"alg":"ES256","kid":"`+otherURI+`"}`)), parts[2], parts[3]), SignatureInvalid},
		"none":                          {join(parts[1], parts[2], ""), Malformed},
		"DER":                           {join(parts[1], parts[2], encode(der)), Malformed},
		"trailing bytes":                {join(parts[1], parts[2], encode(append(raw, 0))), Malformed},
		"a stock fake":                  {join("fakejwsheader", parts[2], "fakesignature"), Malformed},
	} {
		t.Run(name, func(t *testing.T) { w.refused(t, tt.text, tt.code) })
	}
}

// Texts that a lenient reader takes for the sealed secret that they are made of.
func TestAttackEncoding(t *testing.T) {
	w := newWorld(t)
	good := w.vault(t)
	parts := strings.Split(good, ".")
	standard := base64.RawStdEncoding.EncodeToString([]byte(strings.Replace(goodPayload, "{}", `{"?":"???>>>"}`, 1)))
	last := good[len(good)-1]
	stray := good[:len(good)-1] + string(alphabet[strings.IndexByte(alphabet, last)^1]) // 64 bytes leave 4 bits over
	for name, text := range map[string]string{
		"a line break behind":        good + "\n",
		"a line break inside":        good[:30] + "\n" + good[30:],
		"a blank in front":           " " + good,
		"padding":                    good + "==",
		"standard base64":            Prefix + parts[1] + "." + standard + "." + parts[3],
		"stray bits":                 stray,
		"a part more":                good + ".x",
		"a part less":                Prefix + parts[1] + "." + parts[2],
		"the prefix twice":           Prefix + good,
		"the prefix in another case": "Sealed." + strings.TrimPrefix(good, Prefix),
		"no prefix":                  strings.TrimPrefix(good, Prefix),
		"a zero byte behind":         good + "\x00",
		"nothing":                    "",
		"the prefix alone":           Prefix,
		"dots":                       Prefix + "..",
		"too long":                   Prefix + strings.Repeat("A", MaxText),
	} {
		t.Run(name, func(t *testing.T) { w.refused(t, text, Malformed) })
	}
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// Payloads that a pinned key signed, and that are not ones.
func TestAttackPayload(t *testing.T) {
	w := newWorld(t)
	envelope, err := payloadText(w.envelope(t))
	if err != nil {
		t.Fatal(err)
	}
	replaced := func(old, new string) string { return strings.Replace(goodPayload, old, new, 1) }
	for name, tt := range map[string]struct {
		payload string
		code    Code
	}{
		"another version":           {replaced("0.1.0", "0.2.0"), VersionUnsupported},
		"no version":                {replaced(`"version":"0.1.0",`, ""), PayloadMalformed},
		"a version that is no text": {replaced(`"0.1.0"`, "0"), PayloadMalformed},
		"another type":              {replaced(`"vault"`, `"raw"`), PayloadMalformed},
		"a vault's provider":        {replaced(`"kbs"`, `"aliyun"`), ProviderUnsupported},
		"an envelope's provider":    {strings.Replace(envelope, `"kbs"`, `"ehsm"`, 1), ProviderUnsupported},
		"no provider":               {replaced(`"provider":"kbs",`, ""), PayloadMalformed},
		"no settings":               {replaced(`"provider_settings":{},`, ""), PayloadMalformed},
		"no annotations":            {replaced(`,"annotations":{}`, ""), PayloadMalformed},
		"settings are a list":       {replaced(`"provider_settings":{}`, `"provider_settings":[]`), PayloadMalformed},
		"a name that is no URI":     {replaced(valueURI, "db/password"), PayloadMalformed},
		"a name with dots":          {replaced(valueURI, "kbs:///default/../password"), PayloadMalformed},
		"a kid of its own":          {replaced(`{"version"`, `{"kid":"`+otherURI+`","version"`), PayloadMalformed},
		"a member twice":            {replaced(`{"version"`, `{"name":"kbs:///default/db/other","version"`), PayloadMalformed},
		"a member twice, inside":    {replaced(`"annotations":{}`, `"annotations":{"a":1,"a":2}`), PayloadMalformed},
		"members of both types":     {replaced(`"name"`, `"key_id":"x","name"`), PayloadMalformed},
		"another wrap type":         {strings.Replace(envelope, "A256GCM", "A128CBC", 1), PayloadMalformed},
		"text behind":               {goodPayload + " x", PayloadMalformed},
		"no object":                 {`"vault"`, PayloadMalformed},
		"no UTF-8":                  {replaced("vault", "v\xffult"), PayloadMalformed},
	} {
		t.Run(name, func(t *testing.T) { w.refused(t, jws(t, w.signer.Key, goodHeader, tt.payload), tt.code) })
	}
}

// payloadText is the JSON text in a sealed secret.
func payloadText(text string) (string, error) {
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[2])
	return string(raw), err
}

// Envelopes that the pinned key signed, and whose parts do not belong together.
func TestAttackEnvelope(t *testing.T) {
	w := newWorld(t)
	s, err := Parse(w.envelope(t))
	if err != nil {
		t.Fatal(err)
	}
	good, err := s.Verify(w.signer.Key.Verifying())
	if err != nil {
		t.Fatal(err)
	}
	flip := func(text string) string {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		raw[0] ^= 1
		return base64.StdEncoding.EncodeToString(raw)
	}
	for name, change := range map[string]func(*Envelope){
		"another data key":        func(e *Envelope) { e.EncryptedKey = flip(e.EncryptedKey) },
		"other data":              func(e *Envelope) { e.EncryptedData = flip(e.EncryptedData) },
		"another IV":              func(e *Envelope) { e.IV = flip(e.IV) },
		"an IV of another length": func(e *Envelope) { e.IV = base64.StdEncoding.EncodeToString(make([]byte, 16)) },
		"no IV of the key":        func(e *Envelope) { e.Annotations = nil },
		"another key's":           func(e *Envelope) { e.KeyID = "kbs:///default/sealing/kek2" },
		"a key that is too short": func(e *Envelope) { e.KeyID = valueURI },
		"a line break in base64":  func(e *Envelope) { e.EncryptedData += "\n" },
		"data that are too short": func(e *Envelope) { e.EncryptedData = "AAAA" },
		"CTR with an IV of GCM's": func(e *Envelope) { e.WrapType = WrapA256CTR },
		"a data key too short": func(e *Envelope) {
			iv, key, err := sealGCM(w.kek, secret.New(make([]byte, 16)))
			if err != nil {
				t.Fatal(err)
			}
			e.EncryptedKey, e.Annotations = key, json.RawMessage(`{"iv":"`+iv+`"}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.resources["kbs:///default/sealing/kek2"] = NewKey().Reveal()
			e := *good.Envelope
			change(&e)
			text, err := w.signer.Seal(Payload{Envelope: &e})
			if err != nil {
				t.Fatal(err)
			}
			w.refused(t, text, EnvelopeInvalid)
		})
	}
}

func TestEnvelopeWithCTR(t *testing.T) {
	w := newWorld(t)
	dek, iv := NewKey(), make([]byte, 16)
	keyIV, key, err := sealGCM(w.kek, dek)
	if err != nil {
		t.Fatal(err)
	}
	data, err := ctr(dek.Reveal(), iv, []byte(password))
	if err != nil {
		t.Fatal(err)
	}
	text, err := w.signer.Seal(Payload{Envelope: &Envelope{
		Provider: "KBS", KeyID: kekURI, EncryptedKey: key, WrapType: WrapA256CTR, Annotations: json.RawMessage(`{"iv":"` + keyIV + `"}`),
		EncryptedData: base64.StdEncoding.EncodeToString(data), IV: base64.StdEncoding.EncodeToString(iv),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if value, err := Open(t.Context(), text, w.pins, w); err != nil || string(value.Reveal()) != password {
		t.Error(err)
	}
}

// What stands under a pinned key id is no key that guests may verify with.
func TestAttackVerifyingKey(t *testing.T) {
	w := newWorld(t)
	text := w.vault(t)
	private, err := w.signer.Key.PrivateJWK(keyURI)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := p384.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	good := string(w.resources[keyURI])
	for name, jwk := range map[string]string{
		"the private key":   string(private.Reveal()),
		"another curve":     fmt.Sprintf(`{"kty":"EC","crv":"P-384","x":%q,"y":%q}`, encode(point[1:49]), encode(point[49:])),
		"P-256 of P-384":    fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":%q,"y":%q}`, encode(point[1:33]), encode(point[33:65])),
		"another kind":      strings.Replace(good, `"EC"`, `"oct"`, 1),
		"for encryption":    strings.Replace(good, `"sig"`, `"enc"`, 1),
		"another algorithm": strings.Replace(good, "ES256", "HS256", 1),
		"x twice":           strings.Replace(good, `{`, `{"x":"AA",`, 1),
		"no JSON":           password,
		"nothing":           "",
	} {
		t.Run(name, func(t *testing.T) {
			w.resources[keyURI] = []byte(jwk)
			w.refused(t, text, KeyInvalid)
		})
	}
	var none VerifyingKey
	s, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(none); err == nil {
		t.Error("no key verifies")
	}
}

// Shapes that upstream's tools and documents have.
func TestUpstreamPayloads(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Payload
		code Code // of asking for its resource
	}{
		{`{"version":"0.1.0","type":"envelope","key_id":"xxx","encrypted_key":"yyy","encrypted_data":"zzz","wrap_type":"A256GCM","iv":"www",` +
			`"provider":"aliyun","provider_settings":{},"annotations":{}}`,
			Payload{Envelope: &Envelope{Provider: "aliyun", KeyID: "xxx", EncryptedKey: "yyy", EncryptedData: "zzz", WrapType: "A256GCM", IV: "www",
				ProviderSettings: json.RawMessage("{}"), Annotations: json.RawMessage("{}")}}, ProviderUnsupported},
		{`{"version":"0.1.0","type":"vault","name":"xxx","provider":"aliyun","provider_settings":{},"annotations":{}}`,
			Payload{Vault: &Vault{Provider: "aliyun", Name: "xxx", ProviderSettings: json.RawMessage("{}"), Annotations: json.RawMessage("{}")}},
			ProviderUnsupported},
		{`{"version":"0.1.0","type":"vault","name":"kbs:///one/2/trois","provider":"kbs","provider_settings":{},"annotations":{}}`,
			Payload{Vault: &Vault{Provider: "kbs", Name: "kbs:///one/2/trois", ProviderSettings: json.RawMessage("{}"), Annotations: json.RawMessage("{}")}}, ""},
	} {
		p, err := ParsePayload([]byte(tt.text))
		if err != nil || !reflect.DeepEqual(*p, tt.want) {
			t.Errorf("%s: %+v, %v", tt.text, p, err)
			continue
		}
		if text, err := p.MarshalJSON(); err != nil || string(text) != tt.text {
			t.Errorf("written as %s, %v", text, err)
		}
		_, err = p.Resource()
		e, _ := errors.AsType[*Error](err)
		if (e == nil) != (tt.code == "") || e != nil && e.Code != tt.code {
			t.Errorf("%s: %v", tt.text, err)
		}
	}
}

// The unsigned form that upstream's examples have opens for those only who asked for that.
func TestUnverified(t *testing.T) {
	w := newWorld(t)
	fake := Prefix + "fakejwsheader." + encode([]byte(goodPayload)) + ".fakesignature"
	w.refused(t, fake, Malformed)
	w.pins = Pins{UnsafeUnverified: true}
	if value, err := Open(t.Context(), fake, w.pins, w); err != nil || string(value.Reveal()) != password {
		t.Error(err)
	}
	w.refused(t, fake+".x", Malformed)
	w.refused(t, Prefix+"a."+encode([]byte("{}"))+".b", PayloadMalformed)
}

func TestSigningKey(t *testing.T) {
	s := newSigner(t, keyURI)
	jwk, err := s.Key.PrivateJWK(keyURI)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseSigner(jwk)
	if err != nil || !again.Key.private.Equal(s.Key.private) || again.KeyID != keyURI {
		t.Error(err)
	}
	if out := fmt.Sprintf("%v %+v %#v %s", s.Key, s.Key, s.Key, s.Key); strings.Count(out, secret.Redacted) != 4 {
		t.Error("a printer shows the key")
	}
	public, err := s.Key.Verifying().JWK("")
	if err != nil {
		t.Fatal(err)
	}
	other := newSigner(t, "")
	otherJWK, err := other.Key.PrivateJWK("")
	if err != nil {
		t.Fatal(err)
	}
	mixed := strings.Replace(string(otherJWK.Reveal()), `"x":"`, `"x":"AAAA`, 1)
	for name, text := range map[string]string{
		"a public key": string(public), "x of another": mixed,
		"d of another": strings.Replace(string(public), `}`, string(otherJWK.Reveal()[strings.Index(string(otherJWK.Reveal()), `,"d"`):]), 1),
	} {
		if _, err := ParseSigner(secret.New([]byte(text))); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	// The shape in which upstream's tool writes one.
	stock := `{"kty":"EC","d":"7baJLiTk68NcLgYPv05jJvElqoAhbzi1ZWx4OyILUtA","use":"sig","crv":"P-256","kid":"test-key",` +
		`"x":"QT3_slJmispaOwnAo6hxebXGLRuiveFuRCLpS4j4S4k","y":"jcDn4N4nRBQ-a7_D3qjqtb6hwOAXh_ve1wvibPSi1G0","alg":"ES256"}`
	if _, err := ParseSigner(secret.New([]byte(stock))); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	w := newWorld(f)
	f.Add(w.vault(f))
	f.Add(w.envelope(f))
	f.Add(Prefix + "fakejwsheader." + encode([]byte(goodPayload)) + ".fakesignature")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Errorf("%v has no code", err)
			}
			return
		}
		if s.Format() != text {
			t.Errorf("%q is written as %q", text, s.Format())
		}
	})
}

func FuzzPayload(f *testing.F) {
	f.Add([]byte(goodPayload))
	f.Add([]byte(`{"version":"0.1.0","type":"envelope","key_id":"kbs:///a/b/c","encrypted_key":"AA==","encrypted_data":"AA==",` +
		`"wrap_type":"A256CTR","iv":"AA==","provider":"kbs","provider_settings":{ },"annotations":{"iv":"AA==","&":"<>"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParsePayload(text)
		if err != nil {
			return
		}
		written, err := p.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParsePayload(written); err != nil || !reflect.DeepEqual(p, again) {
			t.Errorf("%s is written as %s: %v", text, written, err)
		}
		_, _ = p.Resource()
		if p.Envelope != nil {
			_, _ = p.Envelope.Open(secret.New(make([]byte, keySize)))
		}
	})
}

func FuzzVerifyingKey(f *testing.F) {
	jwk, err := newSigner(f, "k").Key.Verifying().JWK("k")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(jwk)
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := ParseVerifyingKey(text)
		if err != nil {
			return
		}
		written, err := k.JWK("")
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseVerifyingKey(written); err != nil || !again.public.Equal(k.public) {
			t.Error(err)
		}
	})
}
