// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 3394 section 4.
var keyWrapVectors = []struct{ name, kek, key, wrapped string }{
	{"4.1", "000102030405060708090A0B0C0D0E0F", "00112233445566778899AABBCCDDEEFF",
		"1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5"},
	{"4.2", "000102030405060708090A0B0C0D0E0F1011121314151617", "00112233445566778899AABBCCDDEEFF",
		"96778B25AE6CA435F92B5B97C050AED2468AB8A17AD84E5D"},
	{"4.3", "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", "00112233445566778899AABBCCDDEEFF",
		"64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7"},
	{"4.4", "000102030405060708090A0B0C0D0E0F1011121314151617", "00112233445566778899AABBCCDDEEFF0001020304050607",
		"031D33264E15D33268F24EC260743EDCE1C6C7DDEE725A936BA814915C6762D2"},
	{"4.5", "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
		"00112233445566778899AABBCCDDEEFF0001020304050607",
		"A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1"},
	{"4.6", "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F",
		"00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F",
		"28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21"},
}

func TestKeyWrapVectors(t *testing.T) {
	for _, v := range keyWrapVectors {
		wrapped, err := keyWrap(unhex(t, v.kek), unhex(t, v.key))
		if err != nil || !bytes.Equal(wrapped, unhex(t, v.wrapped)) {
			t.Errorf("RFC 3394 %s: wrapped to %X, %v", v.name, wrapped, err)
		}
		key, err := keyUnwrap(unhex(t, v.kek), unhex(t, v.wrapped))
		if err != nil || !bytes.Equal(key, unhex(t, v.key)) {
			t.Errorf("RFC 3394 %s: unwrapped to %X, %v", v.name, key, err)
		}
	}
}

func TestAttackChangedWrappedKey(t *testing.T) {
	v := keyWrapVectors[5]
	for i := range len(v.wrapped) / 2 {
		wrapped := unhex(t, v.wrapped)
		wrapped[i] ^= 1
		if key, err := keyUnwrap(unhex(t, v.kek), wrapped); err == nil {
			t.Errorf("byte %d changed: unwrapped to %X", i, key)
		}
	}
}

func TestKeyWrapSizes(t *testing.T) {
	kek := make([]byte, 32)
	for _, n := range []int{0, 1, 7, 8, 15, 17, 23, 31} {
		if _, err := keyWrap(kek, make([]byte, n)); err == nil {
			t.Errorf("wrapped a key of %d bytes", n)
		}
		if _, err := keyUnwrap(kek, make([]byte, n)); err == nil {
			t.Errorf("unwrapped %d bytes", n)
		}
	}
	if _, err := keyWrap(make([]byte, 5), make([]byte, 16)); err == nil {
		t.Error("wrapped under a key of 5 bytes")
	}
	if _, err := keyUnwrap(make([]byte, 5), make([]byte, 24)); err == nil {
		t.Error("unwrapped under a key of 5 bytes")
	}
}

// RFC 7518 appendix C.
func TestConcatKDFVector(t *testing.T) {
	shared := []byte{158, 86, 217, 29, 129, 113, 53, 211, 114, 131, 66, 131, 191, 132, 38, 156, 251, 49, 110, 163, 218,
		128, 106, 72, 246, 218, 167, 121, 140, 254, 144, 196}
	got := concatKDF(shared, "A128GCM", []byte("Alice"), []byte("Bob"), 16)
	if want := "VqqN6vgjbSBcIijNcacQGg"; encodeBase64URL(got) != want {
		t.Errorf("derived %s, want %s", encodeBase64URL(got), want)
	}
}
