// SPDX-License-Identifier: Apache-2.0

//go:build linux

package cli

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/policy/templates"
)

func newPolicy(o *owner) *cobra.Command {
	group := &cobra.Command{
		Use:   "policy",
		Short: "Make policies of guests, and set the trustee's: what is released to whom, and how evidence is appraised",
	}
	group.AddCommand(newSetRelease(o), newShowRelease(o), newSetAppraisal(o),
		newPolicyGenerate(o), newPolicyTest(), newPolicyDiff(), newPolicyExplain())
	return group
}

func newSetRelease(o *owner) *cobra.Command {
	var (
		template, file string
		facts          templates.Affirming
		options        kbs.ReleaseOptions
	)
	c := &cobra.Command{
		Use:   "set-release (--template affirming --resource PATH --init-data FILE | --template deny-all | --file POLICY.rego)",
		Short: "Set the release policy, from a template or a file of your own",
		Long: `The release policy says which secret is released to which guest. It replaces the one before.

The template "affirming" releases the resources that you name, to guests whose appraisal is affirming in every part and whose init-data is one of those that
you name. Init-data holds the guest's agent policy and its trustee; the host chooses what it hands to a guest, so a policy that does not pin it is refused.`,
		Example: `  nacre policy set-release --template affirming --resource default/db/password --init-data initdata.toml
  nacre policy set-release --file release.rego`,
		Args: cobra.NoArgs,
		RunE: o.with(func(c *cobra.Command, a *kbs.Admin, _ []string) error {
			text, err := releasePolicy(template, file, facts)
			if err != nil {
				return err
			}
			if err := a.SetResourcePolicy(c.Context(), text, options); err != nil {
				return err
			}
			p, err := a.ResourcePolicy(c.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "release policy %s@sha256:%.12s is in force%s\n", p.ID, p.Digest, unsafeChoices(p))
			return nil
		}),
	}
	f := c.Flags()
	f.StringVar(&template, "template", "", "affirming or deny-all")
	f.StringVar(&file, "file", "", "a Rego policy of your own: package policy, rule allow")
	f.StringArrayVar(&facts.Resources, "resource", nil, "path that is released: repository/type/tag (repeatable)")
	f.StringArrayVar(&facts.InitData, "init-data", nil, "init-data that guests must be bound to: a TOML file, or sha256:HEX (repeatable)")
	f.BoolVar(&options.AllowSimulated, "allow-simulated", false, "release to guests on a simulated platform, which protects nothing")
	f.BoolVar(&options.UnsafeAnyInitData, "unsafe-any-initdata", false,
		"accept a policy that releases whatever init-data the host chose")
	return c
}

func unsafeChoices(p *kbs.ResourcePolicy) string {
	var s string
	if p.AllowSimulated {
		s += "; it releases to simulated platforms"
	}
	if p.UnsafeAnyInitData {
		s += "; UNSAFE: it accepts any init-data"
	}
	return s
}

// releasePolicy is the text that the flags describe.
func releasePolicy(template, file string, facts templates.Affirming) (string, error) {
	switch {
	case file != "" && template != "":
		return "", errors.New("--template and --file exclude each other")
	case file != "":
		text, err := os.ReadFile(file)
		return string(text), err
	case template == "deny-all":
		return templates.DenyAll(), nil
	case template == "affirming":
		for i, d := range facts.InitData {
			digest, err := initDataDigest(d)
			if err != nil {
				return "", err
			}
			facts.InitData[i] = digest
		}
		return facts.Rego()
	case template == "":
		return "", errors.New("name a policy: --template affirming, --template deny-all, or --file POLICY.rego")
	default:
		return "", fmt.Errorf("there is no template %q; there are affirming and deny-all", template)
	}
}

// initDataDigest is the digest, in hex, that a flag names, as SEV-SNP reports it: "sha256:HEX" (or sha384, sha512), or the path of an
// init-data text.
func initDataDigest(flag string) (string, error) {
	algorithm, digest, named := strings.Cut(flag, ":")
	if named && (algorithm == initdata.SHA256 || algorithm == initdata.SHA384 || algorithm == initdata.SHA512) {
		sum, err := hex.DecodeString(digest)
		if err != nil || len(sum) < 32 {
			return "", fmt.Errorf("%q is not a digest: give sha256:HEX, or the path of a TOML file", flag)
		}
		return hostData(sum), nil
	}
	text, err := os.ReadFile(flag)
	if err != nil {
		return "", fmt.Errorf("reading init-data: %w; give the path of a TOML file, or sha256:HEX", err)
	}
	sum, err := initdata.Digest(text)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	return hostData(sum), nil
}

// hostData is an init-data digest as SEV-SNP reports it, in hex: cut or zero-padded to the 32 bytes of HOST_DATA.
func hostData(digest []byte) string {
	var field [32]byte
	copy(field[:], digest)
	return hex.EncodeToString(field[:])
}

func newShowRelease(o *owner) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Show the release policy that is in force",
		Args:  cobra.NoArgs,
		RunE: o.with(func(c *cobra.Command, a *kbs.Admin, _ []string) error {
			p, err := a.ResourcePolicy(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), p)
			}
			fmt.Fprintf(c.OutOrStdout(), "# %s@sha256:%.12s%s\n%s", p.ID, p.Digest, unsafeChoices(p), p.Policy)
			return nil
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newSetAppraisal(o *owner) *cobra.Command {
	var id, file string
	c := &cobra.Command{
		Use:   "set-appraisal --file POLICY.rego [--id default_cpu]",
		Short: "Set an appraisal policy: how verified claims become trust claims",
		Args:  cobra.NoArgs,
		RunE: o.with(func(c *cobra.Command, a *kbs.Admin, _ []string) error {
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if err := a.SetAttestationPolicy(c.Context(), id, string(text)); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "appraisal policy %s is in force\n", id)
			return nil
		}),
	}
	c.Flags().StringVar(&id, "id", "default_cpu", "the policy's id")
	c.Flags().StringVar(&file, "file", "", "a Rego policy: package policy, rule trust_claims")
	if err := c.MarkFlagRequired("file"); err != nil {
		panic(err) // the flag is defined on the line above
	}
	return c
}
