// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"encoding/json"
	"math/big"
	"strings"
	"testing"
)

func rsaTestJWK(bits int) JWK {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	n.SetBit(n, 0, 1)
	return JWK{KTY: "RSA", ALG: "RSA-OAEP-256", N: encodeBase64URL(n.Bytes()), E: "AQAB"}
}

func TestJWKRoundTrip(t *testing.T) {
	for _, algorithm := range []Algorithm{ECDHP256, ECDHP521, RSAOAEP256} {
		key, err := GenerateTEEKey(algorithm)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseJWK(text)
		if err != nil || back != key.Public() {
			t.Errorf("%s: %s came back as %+v, %v", algorithm, text, back, err)
		}
		if got, err := back.Algorithm(); got != algorithm || err != nil {
			t.Errorf("%s: algorithm %s, %v", algorithm, got, err)
		}
	}
}

func TestJWKRefuses(t *testing.T) {
	zeros := func(n int) func(*JWK) {
		return func(k *JWK) { k.X, k.Y = encodeBase64URL(make([]byte, n)), encodeBase64URL(make([]byte, n)) }
	}
	p521 := JWK{KTY: "EC", CRV: "P-521", ALG: algECDH}
	for name, key := range map[string]JWK{
		"empty":                     {},
		"unknown type":              change(testJWK, func(k *JWK) { k.KTY = "OKP" }),
		"type in another case":      change(testJWK, func(k *JWK) { k.KTY = "ec" }),
		"P-384":                     change(testJWK, func(k *JWK) { k.CRV = "P-384" }),
		"no alg":                    change(testJWK, func(k *JWK) { k.ALG = "" }),
		"alg of the other type":     change(testJWK, func(k *JWK) { k.ALG = algRSAOAEP }),
		"x too short":               change(testJWK, func(k *JWK) { k.X = k.X[:40] }),
		"x with padding":            change(testJWK, func(k *JWK) { k.X += "=" }),
		"x with a line break":       change(testJWK, func(k *JWK) { k.X = k.X[:20] + "\n" + k.X[20:] }),
		"x with other last bits":    change(testJWK, func(k *JWK) { k.X = k.X[:42] + "V" }),
		"x in standard base64":      change(testJWK, func(k *JWK) { k.Y = strings.ReplaceAll(k.Y, "_", "/") }),
		"the point at infinity":     change(testJWK, zeros(32)),
		"P-521 with 65 bytes":       change(p521, zeros(65)),
		"P-521 at infinity":         change(p521, zeros(66)),
		"RSA of 1024 bits":          rsaTestJWK(1024),
		"RSA of 2047 bits":          rsaTestJWK(2047),
		"RSA of 8192 bits":          rsaTestJWK(8192),
		"RSA with a leading zero":   change(rsaTestJWK(2048), func(k *JWK) { k.N = "AAAA" + k.N }),
		"RSA with an even modulus":  change(rsaTestJWK(2048), func(k *JWK) { k.N = k.N[:len(k.N)-2] + "AA" }),
		"RSA with exponent 1":       change(rsaTestJWK(2048), func(k *JWK) { k.E = "AQ" }),
		"RSA with exponent 3":       change(rsaTestJWK(2048), func(k *JWK) { k.E = "Aw" }),
		"RSA with padded exponent":  change(rsaTestJWK(2048), func(k *JWK) { k.E = "AAEAAQ" }),
		"RSA with a huge exponent":  change(rsaTestJWK(2048), func(k *JWK) { k.E = k.N }),
		"RSA without a modulus":     change(rsaTestJWK(2048), func(k *JWK) { k.N = "" }),
		"RSA for another algorithm": change(rsaTestJWK(2048), func(k *JWK) { k.ALG = "RSA-OAEP" }),
	} {
		if err := key.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if _, err := Seal(key, []byte("secret")); err == nil {
			t.Errorf("%s: encrypted to", name)
		}
	}
	for _, bits := range []int{2048, 3072, 4096} {
		if err := rsaTestJWK(bits).Validate(); err != nil {
			t.Errorf("RSA of %d bits: %v", bits, err)
		}
	}
}

// change is a copy of a key with a change.
func change(base JWK, f func(*JWK)) JWK {
	f(&base)
	return base
}

// Keys that a message may hold and a resource must not be encrypted to. A point off the curve would let whoever sent
// it learn the other side's private key, bit by bit.
func TestAttackKey(t *testing.T) {
	off := testJWK
	off.Y = encodeBase64URL(make([]byte, 32))
	even := new(big.Int).Lsh(big.NewInt(1), 2047)
	for name, key := range map[string]JWK{
		"a point off the curve":    off,
		"RSA with the old padding": change(rsaTestJWK(2048), func(k *JWK) { k.ALG = "RSA1_5" }),
		"RSA with a short modulus": rsaTestJWK(1024),
		"RSA with an even modulus": change(rsaTestJWK(2048), func(k *JWK) { k.N = encodeBase64URL(even.Bytes()) }),
		"RSA with exponent 1":      change(rsaTestJWK(2048), func(k *JWK) { k.E = "AQ" }),
	} {
		t.Run(name, func(t *testing.T) {
			text, err := json.Marshal(key)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ParseJWK(text); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestJWKTextRefuses(t *testing.T) {
	valid, err := json.Marshal(testJWK)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing": "", "null": "null", "an array": "[]", "a string": `"EC"`, "no kty": `{"crv":"P-256"}`,
		"kty null":            strings.Replace(string(valid), `"EC"`, "null", 1),
		"x a number":          strings.Replace(string(valid), `"`+testJWK.X+`"`, "1", 1),
		"kty in another case": strings.Replace(string(valid), `"kty"`, `"Kty"`, 1),
		"too long":            `{"pad":"` + strings.Repeat("a", maxJWKSize) + `",` + string(valid[1:]),
		"member twice":        `{"kty":"EC",` + string(valid[1:]), "text after": string(valid) + "x",
	} {
		if key, err := ParseJWK([]byte(text)); err == nil {
			t.Errorf("%s: accepted as %+v", name, key)
		}
	}
}
