// SPDX-License-Identifier: Apache-2.0

// Command guest asks the services inside a confidential guest whether they speak as programs written for the stock
// components expect: the attestation agent and the confidential data hub by ttrpc at Unix sockets, the REST service by
// HTTP, and the Kata agent, as far as it can be asked without a pod. It runs against any implementation.
//
// Frames and messages are made by hand, by the facts about the protocols: nothing of the project's own clients, servers
// or generated code is imported.
//
// With --extend the suite extends a runtime measurement register once. It changes nothing else in the guest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/nacre-project/nacre/test/conformance/suite"
)

// options are what is asked, and with what.
type options struct {
	aa, cdh, agent string // paths of sockets
	rest           string // URL
	restOutside    string // URL of the same service by an address other than the loopback's
	resource       string // kbs:///repository/type/tag that is released
	resourceFile   string // what it holds
	missing        string // a resource that is not there
	extend         bool
	only           string
	json, strict   bool
	list           bool
}

func (o *options) flags(out io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("guest", flag.ContinueOnError)
	f.SetOutput(out)
	f.StringVar(&o.aa, "aa", "", "`socket` of the attestation agent")
	f.StringVar(&o.cdh, "cdh", "", "`socket` of the confidential data hub")
	f.StringVar(&o.agent, "agent", "", "`socket` of the Kata agent")
	f.StringVar(&o.rest, "rest", "", "`URL` of the REST service, http://127.0.0.1:8006")
	f.StringVar(&o.restOutside, "rest-outside", "", "`URL` of the REST service by an address that is not the loopback's")
	f.StringVar(&o.resource, "resource", "", "`URI` of a resource that the guest is released, kbs:///repository/type/tag")
	f.StringVar(&o.resourceFile, "resource-file", "", "`file` with the bytes of that resource")
	f.StringVar(&o.missing, "missing", "", "`URI` of a resource that would be released and is not there")
	f.BoolVar(&o.extend, "extend", false, "also extend a runtime measurement register")
	f.StringVar(&o.only, "only", "", "run the cases whose names contain this `text`")
	f.BoolVar(&o.json, "json", false, "print the results as JSON")
	f.BoolVar(&o.strict, "strict", false, "cases that SHOULD hold count like those that MUST")
	f.BoolVar(&o.list, "list", false, "print the cases and what each demands, and end")
	f.Usage = func() {
		fmt.Fprintln(out, "guest asks the services inside a confidential guest whether they speak the stock protocols.\n\n"+
			"Usage: guest [--aa SOCKET] [--cdh SOCKET] [--agent SOCKET] [--rest URL] [flags]\n\nFlags:")
		f.PrintDefaults()
		fmt.Fprintln(out, "\nExit status: 0 conforms, 1 a case failed, 2 nothing could be asked.")
	}
	return f
}

// guest is what is asked.
type guest struct {
	options
	value []byte // of the resource; nil when it is not known
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run asks the services that the arguments name and returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	g := &guest{}
	f := g.flags(stderr)
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return suite.ExitConforms
	} else if err != nil {
		return suite.ExitUsage
	}
	if g.list {
		for _, c := range g.cases() {
			fmt.Fprintf(stdout, "%-6s %-30s %-28s %s\n", c.Level, c.Name, c.Ref, c.Want)
		}
		return suite.ExitConforms
	}
	if err := g.check(); err != nil {
		fmt.Fprintln(stderr, "guest:", err)
		return suite.ExitUsage
	}
	results := suite.Run(ctx, g.cases(), g.only, nil)
	write := suite.WriteTable
	if g.json {
		write = suite.WriteJSON
	}
	if err := write(stdout, results); err != nil {
		fmt.Fprintln(stderr, "guest:", err)
		return suite.ExitUsage
	}
	if suite.Failures(results, g.strict) > 0 {
		return suite.ExitFails
	}
	return suite.ExitConforms
}

// check reads what the arguments name.
func (g *guest) check() error {
	if g.aa == "" && g.cdh == "" && g.agent == "" && g.rest == "" {
		return errors.New("there is nothing to ask: name --aa, --cdh, --agent or --rest")
	}
	for _, socket := range []string{g.aa, g.cdh, g.agent} {
		if socket == "" {
			continue
		}
		if info, err := os.Stat(socket); err != nil {
			return err
		} else if info.Mode().Type() != os.ModeSocket {
			return fmt.Errorf("%s is no socket", socket)
		}
	}
	if g.resourceFile == "" {
		return nil
	}
	var err error
	if g.value, err = os.ReadFile(g.resourceFile); g.value == nil {
		g.value = []byte{}
	}
	return err
}

// cases are all cases in the order in which they are asked.
func (g *guest) cases() []suite.Case {
	var all []suite.Case
	for _, group := range [][]suite.Case{g.aaCases(), g.cdhCases(), g.agentCases(), g.restCases()} {
		all = append(all, group...)
	}
	return all
}
