// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import "github.com/spf13/cobra"

func newImage(o *owner) *cobra.Command {
	group := &cobra.Command{
		Use:   "image",
		Short: "Encrypt and sign images, and see whether a policy accepts them",
		Long: `Images lie in registries, which nobody needs to trust: a guest takes them by digest, asks its policy whether they may run, and decrypts their
layers with keys that the trustee gives to it alone.`,
	}
	group.AddCommand(newImageEncrypt(o), newImageInspect(), newImageSign(), newImageVerify(), newImageKeyProvider(o))
	return group
}
