// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/nacre-project/nacre/internal/trustee/store"
	"github.com/nacre-project/nacre/internal/trustee/upstream"
)

// convertConfig is `config convert`: upstream's configuration in, this trustee's out.
func convertConfig(args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 || args[0] != "convert" {
		return errors.New("the one command of config is convert: nacre-trustee config convert [flags] FILE")
	}
	f := flag.NewFlagSet("nacre-trustee config convert", flag.ContinueOnError)
	f.SetOutput(stderr)
	out := f.String("out", "", "write to this `file`, which must not exist (default: standard output)")
	var accept list
	f.Var(&accept, "unsafe-accept", "`key` of the old configuration that may be unsafe (repeatable)")
	f.Usage = func() {
		fmt.Fprintln(stderr, "nacre-trustee config convert reads the TOML configuration of the Confidential Containers "+
			"project's KBS and writes\nthis trustee's. It warns of each key that means nothing here.\n\n"+
			"Usage: nacre-trustee config convert [flags] FILE\n\nFlags:")
		f.PrintDefaults()
	}
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errors.New("name one configuration file to convert")
	}
	text, err := readCapped(f.Arg(0), upstream.MaxConfig)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	c, err := upstream.Convert(text, accept)
	if unsafe, ok := errors.AsType[*upstream.UnsafeError](err); ok {
		return fmt.Errorf("%w; to accept it: --unsafe-accept %s", err, strings.Join(unsafe.Keys, " --unsafe-accept "))
	} else if err != nil {
		return err
	}
	converted, err := c.Format()
	if err != nil {
		return err
	}
	for _, w := range c.Warnings {
		fmt.Fprintln(stderr, "warning:", w)
	}
	if *out == "" {
		_, err = stdout.Write(converted)
		return err
	}
	file, err := os.OpenFile(*out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	_, err = file.Write(converted)
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return nil
}

// importStore is `import`: what a store of upstream's holds comes into this trustee's.
func importStore(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) (err error) {
	s := defaults(getenv)
	f := flag.NewFlagSet("nacre-trustee import", flag.ContinueOnError)
	f.SetOutput(stderr)
	dir := f.String("local-fs", "", "`directory` of a store in the LocalFs layout of the Confidential Containers "+
		"project's KBS")
	replace := f.Bool("replace", false, "write over what is there already")
	dryRun := f.Bool("dry-run", false, "say what would be imported")
	anyInitData := f.Bool("unsafe-any-initdata", false, "accept a release policy that does not pin init-data: a host "+
		"could then run its own programs in a genuine guest")
	config := f.String("config", "", "the trustee's TOML `file`")
	data := f.String("data", "", "the trustee's data `directory` (default "+s.Data+")")
	keyFile := f.String("key-file", "", "`file` of the key that seals the data (default "+s.KeyFile+")")
	beside := f.Bool("unsafe-key-beside-data", false, "accept a --key-file below --data")
	f.Usage = func() {
		fmt.Fprintln(stderr, "nacre-trustee import takes over the resources, reference values and policies of another "+
			"trustee's store, all or\nnothing. The trustee must not run meanwhile.\n\n"+
			"Usage: nacre-trustee import --local-fs DIR [flags]\n\nFlags:")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return err
	}
	if *dir == "" || f.NArg() > 0 {
		return errors.New("name the store's directory: nacre-trustee import --local-fs DIR")
	}
	if *config != "" {
		if err := s.read(*config); err != nil {
			return err
		}
	}
	for _, o := range []struct {
		from string
		into *string
	}{{*data, &s.Data}, {*keyFile, &s.KeyFile}} {
		if o.from != "" {
			*o.into = o.from
		}
	}
	now := time.Now()
	contents, err := upstream.ReadLocalFs(*dir, now)
	if err != nil {
		return err
	}
	for _, w := range contents.Warnings {
		fmt.Fprintln(stderr, "warning:", w)
	}
	if !*dryRun {
		opened, err := store.Open(ctx, store.Options{Dir: s.Data, KeyFile: s.KeyFile,
			UnsafeKeyBesideData: s.UnsafeKeyBesideData || *beside})
		if err != nil {
			return err
		}
		err = errors.Join(upstream.Import(ctx, opened, contents, upstream.Options{Replace: *replace,
			UnsafeAnyInitData: *anyInitData, Now: now}), opened.Close())
		if errors.Is(err, upstream.ErrThere) {
			return fmt.Errorf("%w; --replace writes over it", err)
		} else if err != nil {
			return fmt.Errorf("import: %w", err)
		}
	}
	fmt.Fprintf(stdout, "%s %d resources, %d reference values, %s\n",
		map[bool]string{true: "would import", false: "imported"}[*dryRun], len(contents.Resources),
		len(contents.Values), policiesIn(contents))
	return nil
}

func policiesIn(c *upstream.Contents) string {
	var names []string
	if c.ReleasePolicy != "" {
		names = append(names, "the release policy")
	}
	if c.AppraisalPolicy != "" {
		names = append(names, "the appraisal policy")
	}
	if len(names) == 0 {
		return "no policies"
	}
	return strings.Join(names, " and ")
}
