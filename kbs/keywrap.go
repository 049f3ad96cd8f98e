// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"crypto/aes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
)

// keyWrapIV is the default initial value of AES key wrap (RFC 3394 section 2.2.3.1); on unwrapping it is the
// integrity check.
var keyWrapIV = [8]byte{0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6, 0xA6}

// keyWrap wraps a key of a multiple of 8 bytes under kek (RFC 3394 section 2.2.1); the result is 8 bytes longer.
func keyWrap(kek, key []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	n := len(key) / 8
	if n < 2 || len(key)%8 != 0 {
		return nil, fmt.Errorf("AES key wrap: a key of %d bytes", len(key))
	}
	out := append(keyWrapIV[:], key...)
	var b [aes.BlockSize]byte
	copy(b[:8], out[:8])
	for t := range 6 * n {
		r := out[8*(t%n+1):][:8]
		copy(b[8:], r)
		block.Encrypt(b[:], b[:])
		copy(r, b[8:])
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^uint64(t+1))
	}
	copy(out[:8], b[:8])
	return out, nil
}

// keyUnwrap undoes [keyWrap] (RFC 3394 section 2.2.2), and fails when the wrapped key was not made under kek.
func keyUnwrap(kek, wrapped []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, err
	}
	n := len(wrapped)/8 - 1
	if n < 2 || len(wrapped)%8 != 0 {
		return nil, fmt.Errorf("AES key unwrap: a wrapped key of %d bytes", len(wrapped))
	}
	out := append([]byte(nil), wrapped...)
	var b [aes.BlockSize]byte
	copy(b[:8], out[:8])
	for t := 6*n - 1; t >= 0; t-- {
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])^uint64(t+1))
		r := out[8*(t%n+1):][:8]
		copy(b[8:], r)
		block.Decrypt(b[:], b[:])
		copy(r, b[8:])
	}
	if subtle.ConstantTimeCompare(b[:8], keyWrapIV[:]) != 1 {
		return nil, errors.New("AES key unwrap: the integrity check failed")
	}
	return out[8:], nil
}

// concatKDF derives a key of size bytes, at most 32, for the named algorithm from an ECDH shared secret (RFC 7518
// section 4.6.2, one round of SHA-256).
func concatKDF(shared []byte, algorithm string, partyU, partyV []byte, size int) []byte {
	h := sha256.New()
	lengthPrefixed := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	}
	h.Write(binary.BigEndian.AppendUint32(nil, 1)) // the round
	h.Write(shared)
	lengthPrefixed([]byte(algorithm))
	lengthPrefixed(partyU)
	lengthPrefixed(partyV)
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(size*8))) // SuppPubInfo: the key's length in bits
	return h.Sum(nil)[:size]
}
