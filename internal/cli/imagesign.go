// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"go.podman.io/image/v5/docker/reference"

	"github.com/nacre-project/nacre/internal/guest/signature"
)

// registryAccess is how the commands of this group speak to registries: with the credentials of the user's container tools.
type registryAccess struct{ ca string }

func (a *registryAccess) flags(c *cobra.Command) {
	c.Flags().StringVar(&a.ca, "registry-ca", "", "a certificate authority of the registry, PEM, besides the system's")
}

func (a *registryAccess) client() (*http.Client, error) {
	t := remote.DefaultTransport.(*http.Transport).Clone()
	if a.ca != "" {
		text, err := os.ReadFile(a.ca)
		if err != nil {
			return nil, err
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s has no certificate in PEM", a.ca)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: t, Timeout: time.Minute}, nil
}

func (a *registryAccess) options(ctx context.Context) ([]remote.Option, error) {
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithTransport(client.Transport)}, nil
}

// remoteImage is an image by the name that the user wrote, at its registry.
type remoteImage struct {
	name       reference.Named // as a policy sees it, with the digest
	repository name.Repository
	descriptor *remote.Descriptor
	options    []remote.Option
}

func openImage(ctx context.Context, access *registryAccess, text string) (*remoteImage, error) {
	named, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return nil, fmt.Errorf("%q is no image reference: %w", text, err)
	}
	ref, err := name.ParseReference(text)
	if err != nil {
		return nil, fmt.Errorf("%q is no image reference: %w", text, err)
	}
	options, err := access.options(ctx)
	if err != nil {
		return nil, err
	}
	d, err := remote.Get(ref, options...)
	if err != nil {
		return nil, fmt.Errorf("getting %s: %w", ref, err)
	}
	if _, ok := named.(reference.Digested); !ok {
		if named, err = reference.WithDigest(named, digest.Digest(d.Digest.String())); err != nil {
			return nil, err
		}
	}
	return &remoteImage{named, ref.Context(), d, options}, nil
}

func (i *remoteImage) digest() digest.Digest { return digest.Digest(i.descriptor.Digest.String()) }

// Manifest and Blob make the registry a signature.Source.
func (i *remoteImage) Manifest(_ context.Context, ref string) ([]byte, string, error) {
	var r name.Reference = i.repository.Tag(ref)
	if strings.Contains(ref, ":") {
		r = i.repository.Digest(ref)
	}
	d, err := remote.Get(r, i.options...)
	if err != nil {
		return nil, "", absent(err)
	}
	return d.Manifest, string(d.MediaType), nil
}

// Blob opens a blob; the caller verifies its digest.
func (i *remoteImage) Blob(_ context.Context, d digest.Digest) (io.ReadCloser, int64, error) {
	layer, err := remote.Layer(i.repository.Digest(d.String()), i.options...)
	if err != nil {
		return nil, 0, err
	}
	r, err := layer.Compressed()
	return r, -1, absent(err)
}

// absent tells what does not exist from what could not be had.
func absent(err error) error {
	var refusal *transport.Error
	if errors.As(err, &refusal) && refusal.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w: %w", signature.ErrNotFound, err)
	}
	return err
}

type signing struct {
	access   registryAccess
	key      string
	newKey   bool
	identity string
}

func newImageSign() *cobra.Command {
	var s signing
	c := &cobra.Command{
		Use:   "sign [IMAGE] --key FILE",
		Short: "Sign an image in its registry, in the form of cosign's",
		Long: `Sign puts a signature of an image beside it into its repository, under the tag sha256-<digest>.sig, as cosign does: what it signs cosign
verifies (cosign verify --key FILE.pub --insecure-ignore-tlog), and a guest accepts what either has signed. Signatures that are there stay.

What is signed is the digest that IMAGE has now, with the name of its repository. Of an image for several platforms that is the index.

The key is an ECDSA P-256 private key in PEM (PKCS#8). --new-key makes one, and FILE.pub with the public key.`,
		Example: `  nacre image sign --new-key --key release.key
  nacre image sign registry.example.com/team/app:v1 --key release.key`,
		Args: cobra.MaximumNArgs(1),
		RunE: s.run,
	}
	s.access.flags(c)
	c.Flags().StringVar(&s.key, "key", "", "the private key")
	c.Flags().BoolVar(&s.newKey, "new-key", false, "make the key, and FILE.pub, first; a file that exists is not touched")
	c.Flags().StringVar(&s.identity, "identity", "", "sign under this name instead of the repository's, as when pods use a mirror's")
	if err := c.MarkFlagRequired("key"); err != nil {
		panic(err) // the flag is defined above
	}
	return c
}

func (s *signing) run(c *cobra.Command, args []string) error {
	out := c.OutOrStdout()
	if s.newKey {
		if err := makeKey(out, s.key); err != nil {
			return err
		}
	}
	key, err := readSigningKey(s.key)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		if !s.newKey {
			return errors.New("name the image that is to be signed, or make a key with --new-key")
		}
		return nil
	}
	image, err := openImage(c.Context(), &s.access, args[0])
	if err != nil {
		return err
	}
	identity := image.name.Name()
	if s.identity != "" {
		named, err := reference.ParseNormalizedNamed(s.identity)
		if err != nil {
			return fmt.Errorf("--identity %q is no name of an image: %w", s.identity, err)
		}
		identity = named.String()
	}
	tag := image.repository.Tag(signature.Tag(image.digest()))
	done, err := attachSignature(image, tag, key, identity)
	if err != nil {
		return fmt.Errorf("signing %s: %w", image.name, err)
	}
	verb := "signed"
	if !done {
		verb = "was signed by this key already"
	}
	fmt.Fprintf(out, "%s@%s %s as %s\n  the signature is at %s\n\n", image.repository, image.digest(), verb, identity, tag)
	return printSigningPolicy(out, key, image.name.Name(), identity)
}

// cosignPayload is what cosign signs: its signature specification, "Simple Signing".
type cosignPayload struct {
	Critical struct {
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest digest.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional map[string]any `json:"optional"`
}

// attachSignature adds a signature to those of the image, and says whether there was none by this key.
func attachSignature(image *remoteImage, tag name.Tag, key *ecdsa.PrivateKey, identity string) (bool, error) {
	var p cosignPayload
	p.Critical.Identity.Reference = identity
	p.Critical.Image.Digest = image.digest()
	p.Critical.Type = "cosign container image signature"
	payload, err := json.Marshal(p)
	if err != nil {
		return false, err
	}
	there, err := remote.Image(tag, image.options...)
	switch err = absent(err); {
	case errors.Is(err, signature.ErrNotFound):
		there = mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	case err != nil:
		return false, fmt.Errorf("getting the signatures that are there: %w", err)
	}
	manifest, err := there.Manifest()
	if err != nil {
		return false, fmt.Errorf("the signatures that are there: %w", err)
	}
	sum := sha256.Sum256(payload)
	for _, layer := range manifest.Layers {
		raw, err := base64.StdEncoding.DecodeString(layer.Annotations[signature.Annotation])
		if err == nil && layer.Digest.String() == digest.FromBytes(payload).String() && ecdsa.VerifyASN1(&key.PublicKey, sum[:], raw) {
			return false, nil
		}
	}
	raw, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		return false, err
	}
	signed, err := mutate.Append(there, mutate.Addendum{
		Layer:       static.NewLayer(payload, signature.PayloadMediaType),
		Annotations: map[string]string{signature.Annotation: base64.StdEncoding.EncodeToString(raw)},
	})
	if err != nil {
		return false, err
	}
	return true, remote.Write(tag, signed, image.options...)
}

func makeKey(out io.Writer, path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public, err := publicKeyPEM(key)
	if err != nil {
		return err
	}
	if err := createFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600); err != nil {
		return err
	}
	if err := createFile(path+".pub", public, 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out, `%s: the private key. Whoever has it decides what runs in your pods. Keep it where images are released (the secrets of the CI, an HSM's backup),
  with a copy offline, and neither on a node, nor in an image, nor in the trustee: nothing but signing needs it.
%s.pub: the public key, for policies. It is no secret.

`, path, path)
	return nil
}

// createFile writes a file that must not exist: a key that is overwritten is lost.
func createFile(path string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

func publicKeyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

func readSigningKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w; --new-key makes it", err)
	} else if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s is not in PEM", path)
	}
	if strings.HasPrefix(block.Type, "ENCRYPTED") {
		return nil, fmt.Errorf("%s is encrypted (%s): sign with the tool that made it (for cosign: cosign sign --key %s --tlog-upload=false, "+
			"and from version 3 on --new-bundle-format=false --use-signing-config=false), guests accept that signature too; or make a key with --new-key", path, block.Type, path)
	}
	var parsed any
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		err = fmt.Errorf("it is a %s", block.Type)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err == nil && (!ok || key.Curve != elliptic.P256()) {
		err = errors.New("it is for another algorithm")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: want an ECDSA P-256 private key (PKCS#8): %w", path, err)
	}
	return key, nil
}

// printSigningPolicy prints the policy under which guests run what the key has signed, and nothing else.
func printSigningPolicy(out io.Writer, key *ecdsa.PrivateKey, repository, identity string) error {
	public, err := publicKeyPEM(key)
	if err != nil {
		return err
	}
	match := map[string]any{"type": "matchRepository"}
	if identity != repository {
		match = map[string]any{"type": "exactRepository", "dockerRepository": identity}
		if named, err := reference.ParseNormalizedNamed(identity); err == nil && !reference.IsNameOnly(named) {
			match = map[string]any{"type": "exactReference", "dockerReference": identity}
		}
	}
	requirement := map[string]any{"type": "sigstoreSigned", "keyData": public, "signedIdentity": match}
	fmt.Fprintln(out, "A policy.json under which guests run this repository's images when this key has signed them, and no others:")
	if err := printJSON(out, map[string]any{
		"default":    []any{map[string]any{"type": "reject"}},
		"transports": map[string]any{"docker": map[string]any{repository: []any{requirement}}},
	}); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, `
Next: see that it does what you want with
  nacre image verify IMAGE --policy policy.json
and give it to the pods, either as image_security_policy under [image] in cdh.toml of their init-data (which is measured), or through the
trustee, where it can be changed while pods run:
  nacre secret put default/security-policy/main --file policy.json
with image_security_policy_uri = "kbs:///default/security-policy/main".
`)
	return err
}

type verification struct {
	access    registryAccess
	policy    string
	places    string
	platform  string
	resources map[string]string
}

func newImageVerify() *cobra.Command {
	var v verification
	c := &cobra.Command{
		Use:   "verify IMAGE --policy FILE",
		Short: "See whether a signature policy accepts an image, as a guest would",
		Long: `Verify evaluates a policy.json on an image by the code that the guest runs, and prints why when the policy does not accept it.
The status is 0 when it does, and 1 when it does not.

Keys that the policy takes from the trustee (kbs:///…) are given with --resource, for the trustee releases them to guests only.`,
		Example: `  nacre image verify registry.example.com/team/app:v1 --policy policy.json
  nacre image verify registry.example.com/team/app:v1 --policy policy.json --resource kbs:///default/cosign-key/1=release.key.pub`,
		Args: cobra.ExactArgs(1),
		RunE: v.run,
	}
	v.access.flags(c)
	c.Flags().StringVar(&v.policy, "policy", "", "the policy.json")
	c.Flags().StringVar(&v.places, "sigstore-config", "", "the file that says where simple signatures are (containers-registries.d)")
	c.Flags().StringVar(&v.platform, "platform", "linux/"+runtime.GOARCH, "the platform that a guest would take from an index")
	c.Flags().StringToStringVar(&v.resources, "resource", nil, "URI=FILE: what the trustee would give for a URI of the policy")
	if err := c.MarkFlagRequired("policy"); err != nil {
		panic(err) // the flag is defined above
	}
	return c
}

func (v *verification) run(c *cobra.Command, args []string) error {
	ctx := c.Context()
	text, err := os.ReadFile(v.policy)
	if err != nil {
		return err
	}
	policy, err := signature.Parse(text, v.resource)
	if err != nil {
		return fmt.Errorf("%s: %w", v.policy, err)
	}
	if v.places != "" {
		if text, err = os.ReadFile(v.places); err != nil {
			return err
		}
		if policy, err = policy.WithLookaside(text, v.fetch); err != nil {
			return fmt.Errorf("%s: %w", v.places, err)
		}
	}
	image, err := openImage(ctx, &v.access, args[0])
	if err != nil {
		return err
	}
	subject := signature.Image{Manifest: image.descriptor.Manifest, Source: image}
	if image.descriptor.MediaType.IsIndex() {
		if subject.Instance, err = v.instance(ctx, image); err != nil {
			return err
		}
	}
	if err := policy.Verify(ctx, image.name, subject); err != nil {
		return fmt.Errorf("a guest refuses %s: %w", image.name, err)
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s: accepted\n", image.name)
	return err
}

// instance returns the manifest of the index that a guest takes.
func (v *verification) instance(ctx context.Context, image *remoteImage) ([]byte, error) {
	platform, err := v1.ParsePlatform(v.platform)
	if err != nil {
		return nil, fmt.Errorf("--platform: %w", err)
	}
	index, err := image.descriptor.ImageIndex()
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, m := range manifest.Manifests {
		if m.Platform != nil && m.Platform.Satisfies(*platform) {
			text, _, err := image.Manifest(ctx, m.Digest.String())
			return text, err
		}
	}
	return nil, fmt.Errorf("%s has no image for %s", image.name, v.platform)
}

func (v *verification) resource(_ context.Context, uri string) ([]byte, error) {
	file, ok := v.resources[uri]
	if !ok {
		return nil, fmt.Errorf("%w: give it with --resource %s=FILE", signature.ErrNotFound, uri)
	}
	return os.ReadFile(file)
}

// maxFetched is the size in bytes of what is fetched from a lookaside.
const maxFetched = 1 << 20

func (v *verification) fetch(ctx context.Context, url string) ([]byte, error) {
	client, err := v.access.client()
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		return io.ReadAll(io.LimitReader(response.Body, maxFetched))
	case http.StatusNotFound:
		return nil, fmt.Errorf("%s: %w", url, signature.ErrNotFound)
	default:
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
}
