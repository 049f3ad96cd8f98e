// SPDX-License-Identifier: Apache-2.0

package cdh

import (
	"context"
	"errors"
	"fmt"

	"github.com/pelletier/go-toml/v2"

	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/sealed"
	"github.com/nacre-project/nacre/secret"
)

// maxSealingKeys caps the keys that may have signed sealed secrets.
const maxSealingKeys = 64

// doingUnseal is what failed when a sealed secret stays closed.
const doingUnseal = "unsealing a secret"

// parseSealed reads whose sealed secrets are opened:
//
//	[sealed_secrets]
//	keys = ["kbs:///default/sealing/key"]   # resources that hold verifying keys, as JWK
//	[sealed_secrets.jwks]
//	some-kid = '{"kty":"EC",…}'             # verifying keys themselves
//
// The table is ours. The stock hub has no such choice and takes any key that the sealed secret names; without the table this
// one takes none. The stock hub's switch for taking unsigned secrets as well is refused under its own name, which says less
// than it does.
func parseSealed(text []byte) (sealed.Pins, error) {
	var file struct {
		Skip       bool `toml:"skip_sealed_secret_verification"`
		UnsafeSkip bool `toml:"unsafe_skip_sealed_secret_verification"`
		Sealed     struct {
			Keys []string          `toml:"keys"`
			JWKs map[string]string `toml:"jwks"`
		} `toml:"sealed_secrets"`
	}
	if err := toml.Unmarshal(text, &file); err != nil {
		return sealed.Pins{}, err
	}
	if file.Skip {
		return sealed.Pins{}, errors.New("skip_sealed_secret_verification = true lets the host of the pod choose what sealed secrets say: sign " +
			"them and name the key in [sealed_secrets] keys, or write unsafe_skip_sealed_secret_verification")
	}
	keys, jwks := file.Sealed.Keys, file.Sealed.JWKs
	if n := len(keys) + len(jwks); n > maxSealingKeys {
		return sealed.Pins{}, fmt.Errorf("[sealed_secrets] has %d keys, more than %d", n, maxSealingKeys)
	} else if n > 0 && file.UnsafeSkip {
		return sealed.Pins{}, errors.New("[sealed_secrets] names keys, and unsafe_skip_sealed_secret_verification makes them meaningless: choose one")
	}
	pins := sealed.Pins{UnsafeUnverified: file.UnsafeSkip}
	for _, key := range keys {
		uri, err := kbs.ParseResourceURI(key)
		if err != nil {
			return sealed.Pins{}, fmt.Errorf("[sealed_secrets] keys: %w", err)
		}
		pins.Resources = append(pins.Resources, uri)
	}
	for kid, jwk := range jwks {
		key, err := sealed.ParseVerifyingKey([]byte(jwk))
		if err != nil {
			return sealed.Pins{}, fmt.Errorf("[sealed_secrets.jwks] %q: %w", kid, err)
		}
		if pins.Keys == nil {
			pins.Keys = map[string]sealed.VerifyingKey{}
		}
		pins.Keys[kid] = key
	}
	return pins, nil
}

// Unseal opens a sealed secret. Every error is an *[Error]; it names the code and what the sealed secret names, never a value.
func (s *Service) Unseal(ctx context.Context, text string) (secret.Bytes, error) {
	value, err := sealed.Open(ctx, text, s.sealed, s)
	if err != nil {
		e := explainSealed(err)
		s.log.WarnContext(ctx, "a sealed secret stays sealed", "code", e.Code, "request_id", e.RequestID, "err", e.Err)
		return secret.Bytes{}, e
	}
	s.log.InfoContext(ctx, "a secret is unsealed", "bytes", value.Len())
	return value, nil
}

func explainSealed(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok { // of the resource that it names
		return &Error{Kind: e.Kind, Code: e.Code, Doing: doingUnseal, Err: err, RequestID: e.RequestID, RetryAfter: e.RetryAfter}
	}
	e, ok := errors.AsType[*sealed.Error](err)
	if !ok {
		return &Error{Kind: Internal, Code: string(sealed.Malformed), Doing: doingUnseal, Err: err}
	}
	kind := Invalid
	if e.Code == sealed.KeyNotPinned || e.Code == sealed.SignatureInvalid {
		kind = Denied
	}
	return &Error{Kind: kind, Code: string(e.Code), Doing: doingUnseal, Err: e.Err}
}
