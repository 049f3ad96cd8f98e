// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"
)

// All cryptographic forms in this file are made by hand from the RFCs, so that no library's reading of them, the
// server's above all, comes between.

var b64url = base64.RawURLEncoding

// jcs is RFC 8785 for what is hashed here: strings, and objects of strings, with ASCII names.
func jcs(value any) []byte {
	switch v := value.(type) {
	case string:
		return jcsString(v)
	case map[string]any:
		var out bytes.Buffer
		out.WriteByte('{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				out.WriteByte(',')
			}
			out.Write(jcsString(name))
			out.WriteByte(':')
			out.Write(jcs(v[name]))
		}
		out.WriteByte('}')
		return out.Bytes()
	case int:
		return fmt.Append(nil, v)
	}
	panic(fmt.Sprintf("jcs of a %T", value)) // the callers are in this program
}

// jcsString escapes what RFC 8785 section 3.2.2.2 escapes.
func jcsString(s string) []byte {
	var out bytes.Buffer
	out.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			out.Write([]byte{'\\', c})
		case c >= 0x20:
			out.WriteByte(c)
		default:
			if short := strings.IndexByte("\b\t\n\f\r", c); short >= 0 {
				out.Write([]byte{'\\', "btnfr"[short]})
			} else {
				fmt.Fprintf(&out, `\u%04x`, c)
			}
		}
	}
	out.WriteByte('"')
	return out.Bytes()
}

// reportData is what primary evidence must be bound to: SHA-384 of the canonical JSON of nonce, key and additional
// evidence.
func reportData(nonce string, key map[string]any, additional string) []byte {
	digest := sha512.Sum384(jcs(map[string]any{"nonce": nonce, "tee-pubkey": key, "additional-evidence": additional}))
	return digest[:]
}

// teeKey is a guest's key pair.
type teeKey struct {
	public map[string]any // JWK
	ec     *ecdh.PrivateKey
	rsa    *rsa.PrivateKey
}

func newECKey(curve ecdh.Curve, crv string) (*teeKey, error) {
	private, err := curve.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	point := private.PublicKey().Bytes()[1:] // after the 4 of SEC 1: x, then y
	return &teeKey{ec: private, public: map[string]any{
		"kty": "EC", "crv": crv, "alg": "ECDH-ES+A256KW",
		"x": b64url.EncodeToString(point[:len(point)/2]), "y": b64url.EncodeToString(point[len(point)/2:]),
	}}, nil
}

func newRSAKey(bits int, alg string) (*teeKey, error) {
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return nil, err
	}
	return &teeKey{rsa: private, public: map[string]any{
		"kty": "RSA", "alg": alg, "n": b64url.EncodeToString(private.N.Bytes()),
		"e": b64url.EncodeToString(big.NewInt(int64(private.E)).Bytes()),
	}}, nil
}

// newKey makes a key by the name that stock guests' configuration gives it.
func newKey(kind string) (*teeKey, error) {
	switch kind {
	case "ECDH-ES+A256KW-P256":
		return newECKey(ecdh.P256(), "P-256")
	case "ECDH-ES+A256KW-P521":
		return newECKey(ecdh.P521(), "P-521")
	case "RSA-OAEP-256":
		return newRSAKey(2048, "RSA-OAEP-256")
	}
	return nil, fmt.Errorf("no key of the kind %q", kind)
}

// envelope is a flattened JWE (RFC 7516 section 7.2.2).
type envelope struct {
	Protected    string `json:"protected"`
	EncryptedKey string `json:"encrypted_key"`
	IV           string `json:"iv"`
	Ciphertext   string `json:"ciphertext"`
	Tag          string `json:"tag"`
}

// parseEnvelope demands the five members, no others, and base64url without padding in each.
func parseEnvelope(text []byte) (*envelope, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return nil, fmt.Errorf("the envelope is not a JSON object: %w", err)
	}
	want := []string{"ciphertext", "encrypted_key", "iv", "protected", "tag"}
	if got := slices.Sorted(maps.Keys(members)); !slices.Equal(got, want) {
		return nil, fmt.Errorf("the envelope has the members %q, want %q", got, want)
	}
	var e envelope
	if err := json.Unmarshal(text, &e); err != nil {
		return nil, fmt.Errorf("a member of the envelope is not a string: %w", err)
	}
	return &e, nil
}

// headerText is the one text that the protected header may have: stock guests parse it, write it again in this order
// without white space, and authenticate that.
func (k *teeKey) headerText(e *envelope) (want string, header []byte, err error) {
	header, err = b64url.Strict().DecodeString(e.Protected)
	if err != nil {
		return "", nil, fmt.Errorf("protected is not base64url without padding: %w", err)
	}
	if k.rsa != nil {
		return `{"alg":"RSA-OAEP-256","enc":"A256GCM"}`, header, nil
	}
	var parsed struct {
		EPK struct{ X, Y string }
	}
	if err := json.Unmarshal(header, &parsed); err != nil {
		return "", nil, fmt.Errorf("the protected header is not JSON: %w", err)
	}
	return fmt.Sprintf(`{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"%s","kty":"EC","x":"%s","y":"%s"}}`,
		k.public["crv"], parsed.EPK.X, parsed.EPK.Y), header, nil
}

// open decrypts an envelope.
func (k *teeKey) open(e *envelope) ([]byte, error) {
	parts := map[string][]byte{}
	for name, text := range map[string]string{"encrypted_key": e.EncryptedKey, "iv": e.IV, "ciphertext": e.Ciphertext,
		"tag": e.Tag} {
		raw, err := b64url.Strict().DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("%s is not base64url without padding: %w", name, err)
		}
		parts[name] = raw
	}
	if n := len(parts["iv"]); n != 12 {
		return nil, fmt.Errorf("iv has %d bytes, want 12", n)
	}
	if n := len(parts["tag"]); n != 16 {
		return nil, fmt.Errorf("tag has %d bytes, want 16", n)
	}
	cek, err := k.contentKey(e, parts["encrypted_key"])
	if err != nil {
		return nil, err
	}
	if len(cek) != 32 {
		return nil, fmt.Errorf("the content key has %d bytes, A256GCM takes 32", len(cek))
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	// RFC 7516 section 5.1 step 14: the additional data are the ASCII bytes of the encoded header, as received.
	plain, err := aead.Open(nil, parts["iv"], append(parts["ciphertext"], parts["tag"]...), []byte(e.Protected))
	if err != nil {
		return nil, fmt.Errorf("A256GCM with the received protected header as additional data: %w", err)
	}
	return plain, nil
}

func (k *teeKey) contentKey(e *envelope, encryptedKey []byte) ([]byte, error) {
	if k.rsa != nil {
		cek, err := rsa.DecryptOAEP(sha256.New(), nil, k.rsa, encryptedKey, nil)
		if err != nil {
			return nil, fmt.Errorf("RSA-OAEP with SHA-256, MGF1 with SHA-256 and no label: %w", err)
		}
		return cek, nil
	}
	_, header, err := k.headerText(e)
	if err != nil {
		return nil, err
	}
	var parsed struct {
		EPK struct{ X, Y string }
	}
	if err := json.Unmarshal(header, &parsed); err != nil {
		return nil, err
	}
	size := 32
	if k.public["crv"] == "P-521" {
		size = 66
	}
	point := []byte{4}
	for _, text := range []string{parsed.EPK.X, parsed.EPK.Y} {
		raw, err := b64url.Strict().DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("a coordinate of epk: %w", err)
		}
		if len(raw) != size {
			return nil, fmt.Errorf("a coordinate of epk has %d bytes, want %d", len(raw), size)
		}
		point = append(point, raw...)
	}
	ephemeral, err := k.ec.Curve().NewPublicKey(point)
	if err != nil {
		return nil, fmt.Errorf("epk is not on the key's curve: %w", err)
	}
	shared, err := k.ec.ECDH(ephemeral)
	if err != nil {
		return nil, err
	}
	if len(encryptedKey) != 40 {
		return nil, fmt.Errorf("encrypted_key has %d bytes, a wrapped key of 32 has 40", len(encryptedKey))
	}
	return unwrap(concatKDF(shared), encryptedKey)
}

// concatKDF is RFC 7518 section 4.6.2 for a key of 256 bits: one round of SHA-256 over the counter, Z, AlgorithmID,
// empty PartyUInfo and PartyVInfo, and SuppPubInfo.
func concatKDF(z []byte) []byte {
	const algorithm = "ECDH-ES+A256KW"
	var in []byte
	in = binary.BigEndian.AppendUint32(in, 1)
	in = append(in, z...)
	in = binary.BigEndian.AppendUint32(in, uint32(len(algorithm)))
	in = append(in, algorithm...)
	in = binary.BigEndian.AppendUint32(in, 0)
	in = binary.BigEndian.AppendUint32(in, 0)
	in = binary.BigEndian.AppendUint32(in, 256)
	key := sha256.Sum256(in)
	return key[:]
}

// unwrap is RFC 3394 section 2.2.2.
func unwrap(kek, wrapped []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	n := len(wrapped)/8 - 1
	a, r := slices.Clone(wrapped[:8]), slices.Clone(wrapped[8:])
	buffer := make([]byte, 16)
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			t := binary.BigEndian.Uint64(a) ^ uint64(n*j+i)
			binary.BigEndian.PutUint64(buffer, t)
			copy(buffer[8:], r[(i-1)*8:i*8])
			block.Decrypt(buffer, buffer)
			copy(a, buffer[:8])
			copy(r[(i-1)*8:], buffer[8:])
		}
	}
	if subtle.ConstantTimeCompare(a, bytes.Repeat([]byte{0xA6}, 8)) != 1 {
		return nil, errors.New("AES key unwrap with the key of ECDH-ES and Concat KDF: the integrity check fails")
	}
	return r, nil
}

// jws is a compact JWS (RFC 7515 section 7.1), taken apart.
type jws struct {
	header, claims map[string]any
	payload        []byte // the claims' text
	signed         string // what the signature is over
	signature      []byte
}

func parseJWS(compact string) (*jws, error) {
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("the token has %d parts, want 3", len(parts))
	}
	t := &jws{signed: parts[0] + "." + parts[1]}
	var err error
	if t.payload, err = b64url.Strict().DecodeString(parts[1]); err != nil {
		return nil, fmt.Errorf("the claims are not base64url without padding: %w", err)
	}
	if t.signature, err = b64url.Strict().DecodeString(parts[2]); err != nil {
		return nil, fmt.Errorf("the signature is not base64url without padding: %w", err)
	}
	header, err := b64url.Strict().DecodeString(parts[0])
	if err != nil {
		return nil, fmt.Errorf("the header is not base64url without padding: %w", err)
	}
	if err := json.Unmarshal(header, &t.header); err != nil {
		return nil, fmt.Errorf("the header: %w", err)
	}
	if err := json.Unmarshal(t.payload, &t.claims); err != nil {
		return nil, fmt.Errorf("the claims: %w", err)
	}
	return t, nil
}

// verify checks an ES256 signature by a JWK.
func (t *jws) verify(jwk map[string]any) error {
	if jwk["kty"] != "EC" || jwk["crv"] != "P-256" {
		return fmt.Errorf("the key is kty %v on %v, want EC on P-256", jwk["kty"], jwk["crv"])
	}
	point := []byte{4} // SEC 1 section 2.3.3: uncompressed
	for _, name := range []string{"x", "y"} {
		text, _ := jwk[name].(string)
		raw, err := b64url.Strict().DecodeString(text)
		if err != nil {
			return fmt.Errorf("%s of the key: %w", name, err)
		}
		if len(raw) != 32 {
			return fmt.Errorf("%s of the key has %d bytes, want 32", name, len(raw))
		}
		point = append(point, raw...)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return fmt.Errorf("the key: %w", err)
	}
	if len(t.signature) != 64 {
		return fmt.Errorf("the signature has %d bytes, want 64", len(t.signature))
	}
	digest := sha256.Sum256([]byte(t.signed))
	if !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(t.signature[:32]), new(big.Int).SetBytes(t.signature[32:])) {
		return errors.New("the signature does not verify with the key")
	}
	return nil
}

// adminJWT makes an administrator's token: EdDSA, a role, a recipient and a short life.
func adminJWT(key ed25519.PrivateKey, claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed := b64url.EncodeToString([]byte(`{"alg":"EdDSA","typ":"JWT"}`)) + "." + b64url.EncodeToString(payload)
	signature, err := key.Sign(nil, []byte(signed), crypto.Hash(0))
	if err != nil {
		return "", err
	}
	return signed + "." + b64url.EncodeToString(signature), nil
}

// adminClaims are the claims of a token that counts now.
func adminClaims(audience string, now time.Time) map[string]any {
	return map[string]any{"role": "admin", "aud": audience, "iat": now.Unix(), "exp": now.Add(2 * time.Minute).Unix()}
}
