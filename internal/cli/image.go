// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import "github.com/spf13/cobra"

func newImage(*owner) *cobra.Command {
	group := &cobra.Command{
		Use:   "image",
		Short: "Sign images, and see whether a policy accepts them",
		Long:  `Images lie in registries, which nobody needs to trust: a guest takes them by digest, and asks its policy whether they may run.`,
	}
	group.AddCommand(newImageSign(), newImageVerify())
	return group
}
