// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/imagecrypt"
	"github.com/nacre-project/nacre/internal/cli/images"
)

type encrypting struct {
	owner     *owner
	access    registryAccess
	key       string
	keyFile   string
	algorithm string
	replace   bool
	noTrustee bool
	layers    []int
	asJSON    bool
}

// encrypted is what `nacre image encrypt --json` prints.
type encrypted struct {
	Reference string `json:"reference"` // by digest
	Digest    string `json:"digest"`
	Key       string `json:"key"`        // its URI
	KeyStored bool   `json:"key_stored"` // by this call
	Layers    int    `json:"layers"`     // of all platforms
	Encrypted int    `json:"encrypted"`
}

func newImageEncrypt(o *owner) *cobra.Command {
	e := encrypting{owner: o}
	c := &cobra.Command{
		Use:   "encrypt SRC DST --key kbs:///REPOSITORY/TYPE/TAG",
		Short: "Encrypt an image's layers with a key that the trustee gives to guests",
		Long: `Encrypt copies an image and encrypts its layers on the way, each with a key of its own, which the key that --key names wraps. Guests find
that key in the trustee under this name; whether they get it is for the release policy to say. The form is ocicrypt's with the key provider of
Confidential Containers, which their guests read too.

A new key is made and put into the trustee, unless --key-file names one. What the trustee has under that name is never replaced, except with
--replace-key. The trustee gives no key back: to encrypt several images with one key, keep it in a file.

Layers are encrypted, and nothing else: the configuration (environment, entry point, history) and the digests and sizes of the layers stay readable for
whoever reads the registry. SRC and DST are references to registries, for which the credentials of docker and podman are used, or OCI layout directories, as
oci:DIR or oci:DIR:TAG. Of an image for several platforms all are encrypted.`,
		Example: `  nacre image encrypt registry.example.com/team/app:v1 registry.example.com/team/app:v1-encrypted --key kbs:///team/image-key/app
  nacre image encrypt oci:app:v1 oci:encrypted:v1 --key kbs:///team/image-key/app --key-file app.key --layer -1`,
		Args: cobra.ExactArgs(2),
		RunE: e.run,
	}
	f := c.Flags()
	e.access.flags(c)
	f.StringVar(&e.key, "key", "", "the key's name in the trustee: kbs:///repository/type/tag")
	f.StringVar(&e.keyFile, "key-file", "", "take the key from this file, 32 bytes; it is put into the trustee if nothing is there")
	f.StringVar(&e.algorithm, "algorithm", imagecrypt.A256GCM, "how the key wraps the layers' keys: A256GCM, or A256CTR, which does not notice a wrong key at once")
	f.BoolVar(&e.replace, "replace-key", false, "put the key over what the trustee has under its name; images encrypted with that open no more")
	f.BoolVar(&e.noTrustee, "no-trustee", false, "with --key-file: do not speak to the trustee")
	f.IntSliceVar(&e.layers, "layer", nil, "encrypt this layer only (0 is the first one, -1 the last; may be given several times)")
	f.BoolVar(&e.asJSON, "json", false, "print JSON")
	if err := c.MarkFlagRequired("key"); err != nil {
		panic(err) // the flag is defined above
	}
	return c
}

func (e *encrypting) run(c *cobra.Command, args []string) (err error) {
	ctx := c.Context()
	from, err := images.ParsePlace(args[0])
	if err != nil {
		return err
	}
	to, err := images.ParsePlace(args[1])
	if err != nil {
		return err
	}
	if to.ByDigest() {
		return fmt.Errorf("%s names a digest, which the encrypted image will not have: name a tag", to)
	}
	if e.noTrustee && (e.keyFile == "" || e.replace) {
		return &exitError{2, errors.New("--no-trustee wants --key-file, and no --replace-key: a new key would be lost")}
	}
	keys := imageKeys{replace: e.replace}
	if !e.noTrustee {
		if keys.admin, err = e.owner.admin(); err != nil {
			return err
		}
		defer keys.admin.Close()
	}
	key, made, err := keys.choose(ctx, e.key, e.keyFile)
	if err != nil {
		return err
	}
	defer key.Wipe()
	options, err := e.access.options(ctx)
	if err != nil {
		return err
	}
	image, err := from.Open(ctx, options...)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "nacre-image-")
	if err != nil {
		return fmt.Errorf("making a directory for the ciphertext: %w; TMPDIR says where", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	job := images.Encryption{
		Recipients: []imagecrypt.Recipient{{KeyID: e.key, Key: key, WrapType: e.algorithm}},
		Layers:     e.layers, Dir: dir, Progress: &images.Progress{Out: c.ErrOrStderr(), Now: time.Now},
	}
	sealed, err := job.Encrypt(ctx, image)
	if err != nil {
		return fmt.Errorf("encrypting %s: %w", from, err)
	}
	// The key comes first: whoever sees the image can have its key.
	stored, err := keys.put(ctx, e.key, key, made)
	if err != nil {
		return err
	}
	if err := to.Write(ctx, sealed, options...); err != nil {
		if stored {
			err = fmt.Errorf("%w; the key %s is in the trustee and opens nothing: use another, or put a new one over it with --replace-key", err, e.key)
		}
		return err
	}
	return e.report(c, job, encrypted{
		Reference: to.Pinned(sealed.Descriptor.Digest), Digest: sealed.Descriptor.Digest.String(),
		Key: e.key, KeyStored: stored, Layers: job.Total, Encrypted: job.Encrypted,
	})
}

func (e *encrypting) report(c *cobra.Command, job images.Encryption, done encrypted) error {
	out := c.OutOrStdout()
	if e.asJSON {
		return printJSON(out, done)
	}
	path, err := imageKeyPath(done.Key)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s\n  %d of %d layers encrypted; the key that opens them is %s\n", done.Reference, done.Encrypted, done.Layers, done.Key)
	if job.Left > 0 {
		fmt.Fprintf(out, "  %d manifests of provenance were left out: they would tell what is in the layers\n", job.Left)
	}
	switch {
	case done.KeyStored:
		fmt.Fprintf(out, "  it is in the trustee now\n")
	case e.noTrustee:
		fmt.Fprintf(out, "  put it into the trustee: nacre secret put %s --file %s\n", path, e.keyFile)
	default:
		fmt.Fprintf(out, "  the trustee had a key there, which was left as it is and must be the one in %s\n", e.keyFile)
	}
	fmt.Fprintf(out, `
Next:
  name the image by its digest in the pod:  image: %s
  sign it, if pods demand signatures:       nacre image sign --help
  let the pod's guest have %s:  nacre policy --help
`, done.Reference, path)
	return nil
}
