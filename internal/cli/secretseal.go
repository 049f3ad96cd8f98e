// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/sealed"
	"github.com/nacre-project/nacre/secret"
)

// sealing is what the flags of `nacre secret seal` say.
type sealing struct {
	keyFile, kid string
	newKey       bool

	resource string // vault

	kek, kekFile string // envelope
	newKEK       bool
	file         string

	offline         bool
	secretName, key string
}

func newSeal(o *owner) *cobra.Command {
	var s sealing
	c := &cobra.Command{
		Use:   "seal --sign-key FILE (--resource URI | --kek URI --kek-file FILE)",
		Short: "Make a sealed secret: a text that stands in a Kubernetes Secret, and that only a guest can open",
		Long: `A sealed secret is a text that may go through anybody's hands: it names a secret in the trustee (--resource), or brings a value encrypted under a key that is in
the trustee (--kek). Guests put the secret in its place, in a variable or a file, before the container starts.

It is signed, and a guest takes it only if its init-data names the signing key: nacre initdata create --sealing-key. The private half stays in --sign-key; the public
half is the resource --kid in the trustee. --new-key makes both, --new-kek makes a key for --kek.`,
		Example: `  nacre secret seal --sign-key sealing.jwk --new-key --kid kbs:///default/sealing/key \
      --resource kbs:///default/db/password --secret-name db --key password > secret.yaml
  nacre secret seal --sign-key sealing.jwk --kek kbs:///default/sealing/kek --kek-file kek.bin --new-kek < password.txt`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			signer, err := s.signer(c.Context(), o, c.ErrOrStderr())
			if err != nil {
				return err
			}
			text, names, err := s.seal(c.Context(), o, signer, c.InOrStdin())
			if err != nil {
				return err
			}
			if s.secretName != "" {
				if text, err = secretManifest(s.secretName, s.key, text); err != nil {
					return err
				}
			} else {
				text += "\n"
			}
			if _, err := io.WriteString(c.OutOrStdout(), text); err != nil {
				return err
			}
			s.nextSteps(c.ErrOrStderr(), signer, names)
			return nil
		},
	}
	o.flags(c)
	f := c.Flags()
	f.StringVar(&s.keyFile, "sign-key", "", "the private signing key, a JWK")
	f.StringVar(&s.kid, "kid", "", "the key's id: the trustee's resource with its public half, kbs:///repository/type/tag (else the JWK's own)")
	f.BoolVar(&s.newKey, "new-key", false, "make the signing key, and put its public half into the trustee under --kid")
	f.StringVar(&s.resource, "resource", "", "the secret, as a resource of the trustee: kbs:///repository/type/tag")
	f.StringVar(&s.kek, "kek", "", "encrypt a value under this key of the trustee: kbs:///repository/type/tag")
	f.StringVar(&s.kekFile, "kek-file", "", "the same key here, 32 bytes")
	f.BoolVar(&s.newKEK, "new-kek", false, "make that key, and put it into the trustee under --kek")
	f.StringVar(&s.file, "file", "", "read the value from this file, not from standard input")
	f.BoolVar(&s.offline, "offline", false, "put nothing into the trustee; say what belongs there")
	f.StringVar(&s.secretName, "secret-name", "", "print the manifest of a Kubernetes Secret of this name")
	f.StringVar(&s.key, "key", "value", "the key in the Kubernetes Secret")
	if err := c.MarkFlagRequired("sign-key"); err != nil {
		panic(err) // the flag is defined above
	}
	return c
}

// signer reads the signing key, or makes it.
func (s *sealing) signer(ctx context.Context, o *owner, stderr io.Writer) (sealed.Signer, error) {
	if !s.newKey {
		jwk, err := readSecretFile(s.keyFile)
		if err != nil {
			return sealed.Signer{}, fmt.Errorf("reading the signing key: %w; make one with --new-key", err)
		}
		signer, err := sealed.ParseSigner(jwk)
		if err != nil {
			return sealed.Signer{}, fmt.Errorf("%s: %w", s.keyFile, err)
		}
		if signer.KeyID = cmp.Or(s.kid, signer.KeyID); signer.KeyID == "" {
			return sealed.Signer{}, errors.New("the signing key has no id: name it with --kid kbs:///repository/type/tag")
		}
		return signer, nil
	}
	path, err := resourcePath("--kid", s.kid)
	if err != nil {
		return sealed.Signer{}, err
	}
	key, err := sealed.NewSigningKey()
	if err != nil {
		return sealed.Signer{}, err
	}
	signer := sealed.Signer{KeyID: s.kid, Key: key}
	public, err := key.Verifying().JWK(s.kid)
	if err != nil {
		return sealed.Signer{}, err
	}
	private, err := key.PrivateJWK(s.kid)
	if err != nil {
		return sealed.Signer{}, err
	}
	if err := writeNewFile(s.keyFile, private); err != nil {
		return sealed.Signer{}, fmt.Errorf("writing the signing key: %w", err)
	}
	fmt.Fprintf(stderr, "%s: written; who has this file can seal secrets for your pods\n", s.keyFile)
	if s.offline {
		fmt.Fprintf(stderr, "%s\n  belongs into the trustee: nacre secret put %s; or, without the trustee, into cdh.toml: [sealed_secrets.jwks] %q = '…'\n",
			public, path, s.kid)
		return signer, nil
	}
	return signer, put(ctx, o, path, public, stderr)
}

// seal makes the text, and says which resources guests need to open it.
func (s *sealing) seal(ctx context.Context, o *owner, signer sealed.Signer, in io.Reader) (text string, needs []string, err error) {
	switch {
	case s.resource != "" && s.kek == "":
		uri, err := kbs.ParseResourceURI(s.resource)
		if err != nil {
			return "", nil, fmt.Errorf("--resource: %w", err)
		}
		text, err := signer.SealVault(uri)
		return text, []string{uri.String()}, err
	case s.kek == "" || s.resource != "":
		return "", nil, errors.New("say where the secret is: --resource for one in the trustee, or --kek for a value that is encrypted under a key there")
	case s.kekFile == "":
		return "", nil, errors.New("the trustee gives keys to guests only: name a copy of --kek with --kek-file, or make one with --new-kek")
	}
	uri, err := kbs.ParseResourceURI(s.kek)
	if err != nil {
		return "", nil, fmt.Errorf("--kek: %w", err)
	}
	value, err := s.value(in)
	if err != nil {
		return "", nil, err
	}
	defer value.Wipe()
	kek, err := s.keyEncryptionKey(ctx, o)
	if err != nil {
		return "", nil, err
	}
	defer kek.Wipe()
	text, err = signer.SealEnvelope(uri, kek, value)
	return text, []string{uri.String()}, err
}

func (s *sealing) value(in io.Reader) (secret.Bytes, error) {
	if s.file != "" {
		value, err := readSecretFile(s.file)
		if err != nil {
			return secret.Bytes{}, fmt.Errorf("reading the value: %w", err)
		}
		return value, nil
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxSecret+1))
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("reading the value: %w", err)
	}
	if len(raw) == 0 || len(raw) > maxSecret {
		return secret.Bytes{}, fmt.Errorf("a value of %d bytes on standard input: want 1 to %d", len(raw), maxSecret)
	}
	return secret.New(raw), nil
}

func (s *sealing) keyEncryptionKey(ctx context.Context, o *owner) (secret.Bytes, error) {
	if !s.newKEK {
		kek, err := readSecretFile(s.kekFile)
		if err != nil {
			return secret.Bytes{}, fmt.Errorf("reading the key encryption key: %w; make one with --new-kek", err)
		}
		return kek, nil
	}
	path, err := resourcePath("--kek", s.kek)
	if err != nil {
		return secret.Bytes{}, err
	}
	kek := sealed.NewKey()
	if err := writeNewFile(s.kekFile, kek); err != nil {
		return secret.Bytes{}, fmt.Errorf("writing the key encryption key: %w", err)
	}
	if s.offline {
		return kek, nil
	}
	return kek, put(ctx, o, path, kek.Reveal(), io.Discard)
}

func (s *sealing) nextSteps(w io.Writer, signer sealed.Signer, needs []string) {
	fmt.Fprintf(w, "sealed by %s. Guests open it when\n", signer.KeyID)
	for _, uri := range needs {
		how := "nacre secret put " + strings.TrimPrefix(uri, "kbs:///")
		switch {
		case s.kek == "":
			how += " < FILE"
		case s.newKEK && !s.offline:
			how = "it is"
		default:
			how += " --file " + s.kekFile
		}
		fmt.Fprintf(w, "  - the trustee has %s: %s\n", uri, how)
	}
	fmt.Fprintf(w, "  - their init-data names the signing key: nacre initdata create --sealing-key %s …\n", signer.KeyID)
	fmt.Fprintf(w, "  - the release policy lets them have the resources: nacre policy set-release --template affirming")
	for _, uri := range append([]string{signer.KeyID}, needs...) {
		if path, ok := strings.CutPrefix(uri, "kbs:///"); ok {
			fmt.Fprintf(w, " --resource %s", path)
		}
	}
	fmt.Fprintln(w, " …")
}

func newUnseal() *cobra.Command {
	var keyFile, kekFile, file string
	var unverified bool
	c := &cobra.Command{
		Use:   "unseal --sign-key FILE [--kek-file FILE]",
		Short: "Check a sealed secret, and show what is in it",
		Long: `unseal reads a sealed secret from standard input, checks that the key of --sign-key (its public half, or the private one) signed it, and shows what it names. A
value that it brings encrypted is printed with --kek-file. What is in the trustee only guests get.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			text, err := readSealed(file, c.InOrStdin())
			if err != nil {
				return err
			}
			payload, err := checkSealed(text, keyFile, unverified, c.ErrOrStderr())
			if err != nil {
				return err
			}
			uri, err := payload.Resource()
			if err != nil {
				return err
			}
			if payload.Vault != nil {
				fmt.Fprintf(c.OutOrStdout(), "%s\n", uri)
				return nil
			}
			if kekFile == "" {
				fmt.Fprintf(c.OutOrStdout(), "a value, encrypted under %s\n", uri)
				return nil
			}
			kek, err := readSecretFile(kekFile)
			if err != nil {
				return fmt.Errorf("reading the key encryption key: %w", err)
			}
			defer kek.Wipe()
			value, err := payload.Envelope.Open(kek)
			if err != nil {
				return err
			}
			defer value.Wipe()
			_, err = c.OutOrStdout().Write(value.Reveal())
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&keyFile, "sign-key", "", "the key that is to have signed, a JWK, public or private")
	f.StringVar(&kekFile, "kek-file", "", "the key encryption key, 32 bytes: print the value")
	f.StringVar(&file, "file", "", "read the sealed secret from this file, not from standard input")
	f.BoolVar(&unverified, "unsafe-unverified", false, "show a sealed secret whoever made it")
	return c
}

// readSealed reads a sealed secret; a line break behind it is the terminal's, or the editor's.
func readSealed(file string, in io.Reader) (string, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("reading the sealed secret: %w", err)
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, sealed.MaxText+2))
	if err != nil {
		return "", fmt.Errorf("reading the sealed secret: %w", err)
	}
	return strings.TrimSuffix(string(raw), "\n"), nil
}

func checkSealed(text, keyFile string, unverified bool, stderr io.Writer) (*sealed.Payload, error) {
	if unverified {
		fmt.Fprintln(stderr, "NOT VERIFIED: anybody may have made this")
		return sealed.UnsafePayload(text)
	}
	s, err := sealed.Parse(text)
	if err != nil {
		return nil, err
	}
	if keyFile == "" {
		return nil, fmt.Errorf("the sealed secret names the key %s: give its JWK with --sign-key, or --unsafe-unverified", s.KeyID)
	}
	jwk, err := readSecretFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	var key sealed.VerifyingKey
	if signer, notPrivate := sealed.ParseSigner(jwk); notPrivate == nil {
		key = signer.Key.Verifying()
	} else if key, err = sealed.ParseVerifyingKey(jwk.Reveal()); err != nil {
		return nil, fmt.Errorf("%s: %w", keyFile, err)
	}
	payload, err := s.Verify(key)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(stderr, "signed by %s\n", s.KeyID)
	return payload, nil
}

// secretManifest is a Kubernetes Secret with one value.
func secretManifest(name, key, value string) (string, error) {
	type metadata struct {
		Name string `json:"name"`
	}
	text, err := yaml.Marshal(struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Metadata   metadata          `json:"metadata"`
		Type       string            `json:"type"`
		StringData map[string]string `json:"stringData"`
	}{"v1", "Secret", metadata{name}, "Opaque", map[string]string{key: value}})
	if err != nil {
		return "", fmt.Errorf("writing the Secret's manifest: %w", err)
	}
	return string(text), nil
}

// resourcePath is the path under which the owner puts what a URI names.
func resourcePath(flag, text string) (string, error) {
	uri, err := kbs.ParseResourceURI(text)
	if err == nil {
		err = kbs.ValidPath(uri.Path)
	}
	if err == nil && (uri.Plugin != kbs.DefaultPlugin || len(uri.Query) > 0) {
		err = fmt.Errorf("%s is not a resource that can be put", uri)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	return strings.Join(uri.Path, "/"), nil
}

func put(ctx context.Context, o *owner, path string, value []byte, stderr io.Writer) error {
	a, err := o.admin()
	if err != nil {
		return fmt.Errorf("%w; or give --offline", err)
	}
	defer a.Close()
	if err := a.PutResource(ctx, path, value); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "%s: the public half is in the trustee\n", path)
	return nil
}

// readSecretFile reads a key or a value.
func readSecretFile(path string) (secret.Bytes, error) {
	f, err := os.Open(path)
	if err != nil {
		return secret.Bytes{}, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return secret.Bytes{}, err
	}
	if len(raw) > maxSecret {
		return secret.Bytes{}, fmt.Errorf("%s has more than %d bytes", path, maxSecret)
	}
	return secret.New(raw), nil
}

// writeNewFile writes a key for its owner alone, over nothing that is there.
func writeNewFile(path string, key secret.Bytes) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(key.Reveal())
	return errors.Join(err, f.Close())
}
