// SPDX-License-Identifier: Apache-2.0

package floor

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
)

// Primitive is an operation of cryptography, by the name under which a route lists it.
type Primitive string

// What the protocol's requests are made of.
const (
	VerifyP384 Primitive = "ECDSA P-384 verification"   // of a report
	VerifyP256 Primitive = "ECDSA P-256 verification"   // of a token
	SignP256   Primitive = "ECDSA P-256 signature"      // of a token
	AgreeP256  Primitive = "P-256 key generation, ECDH" // of an envelope
	SealGCM    Primitive = "AES-256-GCM seal"           // of an envelope, over a secret
)

// secretSize is the size of what is sealed, in bytes: a password's.
const secretSize = 32

// kit is the keys and messages of the primitives.
type kit struct {
	p384, p256     *ecdsa.PrivateKey
	sig384, sig256 []byte
	digest384      [sha512.Size384]byte
	digest256      [sha256.Size]byte
	tee            *ecdh.PublicKey
	key            [32]byte
}

func newKit() (*kit, error) {
	k := &kit{digest384: sha512.Sum384([]byte("a report")), digest256: sha256.Sum256([]byte("a token"))}
	var err error
	if k.p384, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
		return nil, err
	}
	if k.p256, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if k.sig384, err = ecdsa.SignASN1(rand.Reader, k.p384, k.digest384[:]); err != nil {
		return nil, err
	}
	if k.sig256, err = ecdsa.SignASN1(rand.Reader, k.p256, k.digest256[:]); err != nil {
		return nil, err
	}
	tee, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	k.tee = tee.PublicKey()
	return k, nil
}

// steps returns what carries out a route's cryptography.
func (k *kit) steps(r Route) ([]func() error, error) {
	known := map[Primitive]func() error{
		VerifyP384: func() error { return verified(ecdsa.VerifyASN1(&k.p384.PublicKey, k.digest384[:], k.sig384)) },
		VerifyP256: func() error { return verified(ecdsa.VerifyASN1(&k.p256.PublicKey, k.digest256[:], k.sig256)) },
		SignP256: func() error {
			_, err := ecdsa.SignASN1(rand.Reader, k.p256, k.digest256[:])
			return err
		},
		AgreeP256: k.agree,
		SealGCM:   k.seal,
	}
	var steps []func() error
	for _, p := range r.Work {
		step, ok := known[p]
		if !ok {
			return nil, fmt.Errorf("there is no primitive %q", p)
		}
		steps = append(steps, step)
	}
	for _, size := range r.SHA256 {
		message := make([]byte, size)
		steps = append(steps, func() error { sha256.Sum256(message); return nil })
	}
	for _, size := range r.SHA384 {
		message := make([]byte, size)
		steps = append(steps, func() error { sha512.Sum384(message); return nil })
	}
	return steps, nil
}

func verified(ok bool) error {
	if !ok {
		return errors.New("the floor's own signature does not verify")
	}
	return nil
}

func (k *kit) agree() error {
	ephemeral, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	_, err = ephemeral.ECDH(k.tee)
	return err
}

func (k *kit) seal() error {
	block, err := aes.NewCipher(k.key[:])
	if err != nil {
		return err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return err
	}
	aead.Seal(nil, nil, make([]byte, secretSize), nil)
	return nil
}
