// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// Every envelope here is a sound JWE for the TEE key, as far as JOSE goes, which somebody on the way made with
// something other than what the protocol uses. A guest that takes the algorithms from the envelope opens them.
func TestAttackEnvelopeConfusion(t *testing.T) {
	ec, rsaKey := newKey(t, ECDHP256), newKey(t, RSAOAEP256)
	ecPublic, rsaPublic := recipient(t, ec), &rsaKey.rsa.PublicKey
	other := newKey(t, ECDHP256)
	for name, c := range map[string]struct {
		key *TEEKey
		e   *Envelope
	}{
		"RSA1_5":                {rsaKey, josed(t, jose.RSA1_5, jose.A256GCM, rsaPublic, nil)},
		"RSA-OAEP with SHA-1":   {rsaKey, josed(t, jose.RSA_OAEP, jose.A256GCM, rsaPublic, nil)},
		"an EC envelope to RSA": {rsaKey, josed(t, jose.ECDH_ES_A256KW, jose.A256GCM, ecPublic, nil)},
		"an RSA envelope to EC": {ec, josed(t, jose.RSA_OAEP_256, jose.A256GCM, rsaPublic, nil)},
		"ECDH-ES, direct":       {ec, josed(t, jose.ECDH_ES, jose.A256GCM, ecPublic, nil)},
		"ECDH-ES+A128KW":        {ec, josed(t, jose.ECDH_ES_A128KW, jose.A256GCM, ecPublic, nil)},
		"A128GCM":               {ec, josed(t, jose.ECDH_ES_A256KW, jose.A128GCM, ecPublic, nil)},
		"A256CBC-HS512":         {ec, josed(t, jose.ECDH_ES_A256KW, jose.A256CBC_HS512, ecPublic, nil)},
		"zip":                   {ec, josed(t, jose.ECDH_ES_A256KW, jose.A256GCM, ecPublic, &jose.EncrypterOptions{Compression: jose.DEFLATE})},
		"apu": {ec, josed(t, jose.ECDH_ES_A256KW, jose.A256GCM, ecPublic,
			(&jose.EncrypterOptions{}).WithHeader("apu", "QWxpY2U"))},
		"apv": {ec, josed(t, jose.ECDH_ES_A256KW, jose.A256GCM, ecPublic,
			(&jose.EncrypterOptions{}).WithHeader("apv", "Qm9i"))},
		"crit": {ec, josed(t, jose.ECDH_ES_A256KW, jose.A256GCM, ecPublic,
			(&jose.EncrypterOptions{}).WithHeader("crit", []string{"exp"}))},
		"epk on P-521":  {ec, josed(t, jose.ECDH_ES_A256KW, jose.A256GCM, recipient(t, newKey(t, ECDHP521)), nil)},
		"wrong TEE key": {other, josed(t, jose.ECDH_ES_A256KW, jose.A256GCM, ecPublic, nil)},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := c.key.Open(c.e); err == nil {
				t.Errorf("opened %q", got.Reveal())
			}
		})
	}
}

// recipient is an EC key as go-jose takes it.
func recipient(t *testing.T, key *TEEKey) *ecdsa.PublicKey {
	t.Helper()
	curve := elliptic.P256()
	if key.ecdh.Curve() == ecdh.P521() {
		curve = elliptic.P521()
	}
	public, err := ecdsa.ParseUncompressedPublicKey(curve, key.ecdh.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// josed makes an envelope with algorithms of its own.
func josed(t *testing.T, alg jose.KeyAlgorithm, enc jose.ContentEncryption, public any, o *jose.EncrypterOptions) *Envelope {
	t.Helper()
	encrypter, err := jose.NewEncrypter(enc, jose.Recipient{Algorithm: alg, Key: public}, o)
	if err != nil {
		t.Fatal(err)
	}
	object, err := encrypter.Encrypt([]byte("a password of his"))
	if err != nil {
		t.Fatal(err)
	}
	text := object.FullSerialize()
	if alg == jose.ECDH_ES { // which has no encrypted key
		text = strings.Replace(text, "{", `{"encrypted_key":"",`, 1)
	}
	e, err := ParseEnvelope([]byte(text))
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return e
}

// What the attacks' tool makes of the protocol's own algorithms opens.
func TestConfusedEnvelopesAreOtherwiseSound(t *testing.T) {
	ec, rsaKey := newKey(t, ECDHP256), newKey(t, RSAOAEP256)
	ecPublic, rsaPublic := recipient(t, ec), &rsaKey.rsa.PublicKey
	if _, err := ec.Open(josed(t, jose.ECDH_ES_A256KW, jose.A256GCM, ecPublic, nil)); err != nil {
		t.Fatalf("what the protocol uses: %v", err)
	}
	if _, err := rsaKey.Open(josed(t, jose.RSA_OAEP_256, jose.A256GCM, rsaPublic, nil)); err != nil {
		t.Fatalf("what the protocol uses with RSA: %v", err)
	}
}
