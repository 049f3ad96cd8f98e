// SPDX-License-Identifier: Apache-2.0

package pull

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/nacre-project/nacre/imagecrypt"
	"github.com/nacre-project/nacre/secret"
)

// keyring asks for each key once in a pull, for the layers of an image commonly share one. It is gone with the pull.
type keyring struct{ keys *Resources }

func newKeyring(source imagecrypt.KeySource) keyring {
	if source == nil {
		return keyring{}
	}
	return keyring{NewResources(source.Key, time.Hour)}
}

// Key implements [imagecrypt.KeySource].
func (k keyring) Key(ctx context.Context, kid string) (secret.Bytes, error) {
	return k.keys.Get(ctx, kid)
}

// decrypt returns what is in a layer's blob before it is decompressed.
func (e *errand) decrypt(ctx context.Context, l layer, blob io.Reader) (io.Reader, error) {
	if !l.encrypted {
		return blob, nil
	}
	plain, err := imagecrypt.Open(ctx, l.blob, blob, e.keys)
	if err != nil {
		return nil, failed(CodeNotDecrypted, err, "layer %s", l.blob.Digest)
	}
	return plain, nil
}

// name is the layer's in the store. Equal contents have one name, but for what was decrypted: whoever names its diff_id
// only has shown neither blob nor key, and would be given what he may not read.
func (l layer) name() (string, error) {
	name := l.diffID.Algorithm().String() + "-" + l.diffID.Encoded()
	if !l.encrypted {
		return name, nil
	}
	descriptor, err := json.Marshal(l.blob)
	if err != nil {
		return "", failed(CodeMalformed, err, "layer %s", l.blob.Digest)
	}
	return fmt.Sprintf("%s-%x", name, sha256.Sum256(descriptor)), nil
}
