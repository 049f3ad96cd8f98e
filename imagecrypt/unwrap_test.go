// SPDX-License-Identifier: Apache-2.0

package imagecrypt_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nacre-project/nacre/imagecrypt"
	"github.com/nacre-project/nacre/secret"
)

// keys is a source of keys that are in memory, by kid.
type keys map[string]string

func (k keys) Key(_ context.Context, kid string) (secret.Bytes, error) {
	key, ok := k[kid]
	if !ok {
		return secret.Bytes{}, errNoKey
	}
	return secret.New([]byte(key)), nil
}

var errNoKey = errors.New("there is no such key")

const (
	kid   = "kbs:///default/key/1"
	key   = "0123456789abcdef0123456789abcdef"
	other = "fedcba9876543210fedcba9876543210"
	// options open a layer, of which nothing else is known.
	options = `{"symkey":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=","digest":"sha256:00","cipheroptions":{"nonce":"MDEyMzQ1Njc4OWFiY2RlZg=="}}`
)

func wrapped(t testing.TB, wrapType string) imagecrypt.Packet {
	t.Helper()
	p, err := imagecrypt.Wrap(kid, secret.New([]byte(key)), wrapType, secret.New([]byte(options)))
	if err != nil {
		t.Fatal(err)
	}
	return *p
}

// The packet and its key are those of upstream's own tests.
func TestUnwrapKnownAnswer(t *testing.T) {
	p, err := imagecrypt.ParsePacket(vector(t))
	if err != nil {
		t.Fatal(err)
	}
	sample, err := hex.DecodeString("d99b7705b0ba7a168295b3a3367270b0dd9b371bf514ca8b9ba7f0a33711daea")
	if err != nil {
		t.Fatal(err)
	}
	got, err := imagecrypt.Unwrap(t.Context(), *p, keys{kid: string(sample)})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"symkey":"1jL2jJV0Oyz2nmPkLtqulW6cKcpIUN5FpILcVnP5Uqs=",` +
		`"digest":"sha256:18be1897f9402f27c8c0eba7c86e0c00f5656db62961b5949d55f9565c42c6e7",` +
		`"cipheroptions":{"nonce":"r10F9oaCu+nWFXfod3l83g=="}}`
	if string(got.Reveal()) != want {
		t.Errorf("got %s", got.Reveal())
	}
}

func TestWrap(t *testing.T) {
	for _, wrapType := range []string{imagecrypt.A256GCM, imagecrypt.A256CTR} {
		got, err := imagecrypt.Unwrap(t.Context(), wrapped(t, wrapType), keys{kid: key})
		if err != nil || string(got.Reveal()) != options {
			t.Errorf("%s: got %s, %v", wrapType, got.Reveal(), err)
		}
	}
	for name, wrap := range map[string]func() (*imagecrypt.Packet, error){
		"a short key": func() (*imagecrypt.Packet, error) {
			return imagecrypt.Wrap(kid, secret.New([]byte("short")), imagecrypt.A256GCM, secret.New([]byte(options)))
		},
		"an unknown way": func() (*imagecrypt.Packet, error) {
			return imagecrypt.Wrap(kid, secret.New([]byte(key)), "A128GCM", secret.New([]byte(options)))
		},
		"no options": func() (*imagecrypt.Packet, error) {
			return imagecrypt.Wrap(kid, secret.New([]byte(key)), imagecrypt.A256GCM, secret.New([]byte("{}")))
		},
		"no name": func() (*imagecrypt.Packet, error) {
			return imagecrypt.Wrap("", secret.New([]byte(key)), imagecrypt.A256GCM, secret.New([]byte(options)))
		},
	} {
		if p, err := wrap(); err == nil {
			t.Errorf("%s: made the packet %+v", name, p)
		}
	}
}

func TestKeyUnavailable(t *testing.T) {
	_, err := imagecrypt.Unwrap(t.Context(), wrapped(t, imagecrypt.A256GCM), keys{})
	if imagecrypt.CodeOf(err) != imagecrypt.CodeKeyUnavailable || !errors.Is(err, errNoKey) || !strings.Contains(err.Error(), kid) {
		t.Errorf("got %v", err)
	}
}

// refused says that nothing was unwrapped, for the reason of code, and nothing of the keys is told.
func refused(t *testing.T, p imagecrypt.Packet, source keys, code imagecrypt.Code) {
	t.Helper()
	got, err := imagecrypt.Unwrap(t.Context(), p, source)
	if imagecrypt.CodeOf(err) != code || got.Len() != 0 {
		t.Errorf("unwrapped %d bytes: %v; want %s", got.Len(), err, code)
	}
	if text := fmt.Sprint(err); strings.Contains(text, key) || strings.Contains(text, other) || strings.Contains(text, "symkey\":") {
		t.Errorf("the error tells the key: %s", text)
	}
}

func TestAttackWrongKey(t *testing.T) {
	for _, wrapType := range []string{imagecrypt.A256GCM, imagecrypt.A256CTR} {
		t.Run(wrapType, func(t *testing.T) { refused(t, wrapped(t, wrapType), keys{kid: other}, imagecrypt.CodeKeyWrong) })
	}
}

func TestKeyOfAnotherLength(t *testing.T) {
	for _, n := range []int{0, 16, 24, 31} {
		refused(t, wrapped(t, imagecrypt.A256GCM), keys{kid: key[:n]}, imagecrypt.CodeKeyWrong)
	}
	refused(t, wrapped(t, imagecrypt.A256GCM), keys{kid: key + "\n"}, imagecrypt.CodeKeyWrong)
}

// A short resource that somebody knows, a password perhaps, is no key, even where AES takes keys of its length.
func TestAttackKeyOfAnotherLength(t *testing.T) {
	for _, n := range []int{16, 24} {
		block, err := aes.NewCipher([]byte(key[:n]))
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		p := wrapped(t, imagecrypt.A256GCM)
		p.WrappedData = gcm.Seal(nil, p.IV, []byte(options), nil)
		refused(t, p, keys{kid: key[:n]}, imagecrypt.CodeKeyWrong)
	}
}

// The packet says that a service wrapped it, and has all that is needed to unwrap it without.
func TestAttackPacketOfAnotherProvider(t *testing.T) {
	p := wrapped(t, imagecrypt.A256GCM)
	p.Provider = "aliyun"
	refused(t, p, keys{kid: key}, imagecrypt.CodeProviderUnsupported)
}

func TestAttackUnknownWrapType(t *testing.T) {
	for _, wrapType := range []string{"", "none", "A128GCM", "a256gcm"} {
		p := wrapped(t, imagecrypt.A256GCM)
		p.WrapType = wrapType
		refused(t, p, keys{kid: key}, imagecrypt.CodeProviderUnsupported)
	}
}

// Go's ciphers end the process when an IV has another length than theirs.
func TestAttackIVOfAnotherLength(t *testing.T) {
	for wrapType, size := range map[string]int{imagecrypt.A256GCM: 12, imagecrypt.A256CTR: 16} {
		for _, n := range []int{0, size - 1, size + 1, 28 - size} {
			p := wrapped(t, wrapType)
			p.IV = make([]byte, n)
			refused(t, p, keys{kid: key}, imagecrypt.CodePacketMalformed)
		}
	}
}

func TestAttackWrappedDataChanged(t *testing.T) {
	for i := range wrapped(t, imagecrypt.A256GCM).WrappedData {
		p := wrapped(t, imagecrypt.A256GCM)
		p.WrappedData[i] ^= 1
		refused(t, p, keys{kid: key}, imagecrypt.CodeKeyWrong)
	}
	p := wrapped(t, imagecrypt.A256GCM)
	p.WrappedData = p.WrappedData[:8]
	refused(t, p, keys{kid: key}, imagecrypt.CodeKeyWrong)
}
