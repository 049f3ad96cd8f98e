// SPDX-License-Identifier: Apache-2.0

// Command kbs asks a key broker (KBS) of Confidential Containers whether it speaks RCAR 0.4.0 and its HTTP interface
// as stock guests and tools expect: every route, status, body, cookie, token claim and envelope, by requests that are
// made by hand. It runs against any server by URL.
//
// It imports nothing that the project's own client or server is made of, so that an error there cannot hide here. The
// one exception is the signer of the simulated SEV-SNP platform, for evidence that a server can verify without
// hardware; README.md says how other evidence is brought.
//
// It sets policies and resources on the server that it asks: never run it against one that holds anything.
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
	url, ca         string
	tee             string
	simulatedDir    string
	evidenceCommand string
	fixedInitData   bool
	adminToken      string
	adminTokenFile  string
	adminKey        string
	adminAudience   string
	jwksURL         string
	bodyLimit       int64
	only            string
	json, strict    bool
	list            bool
}

func (o *options) flags(out io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("kbs", flag.ContinueOnError)
	f.SetOutput(out)
	f.StringVar(&o.url, "url", "", "`URL` of the server, https://host:port")
	f.StringVar(&o.ca, "ca", "", "PEM `file` of the server's certificate or of the authority that signed it "+
		"(default: the system's authorities)")
	f.StringVar(&o.tee, "tee", "", "wire `name` of the platform; \"sample\" needs no further evidence")
	f.StringVar(&o.simulatedDir, "simulated-dir", "", "`directory` of a simulated SEV-SNP platform, made if it is not "+
		"there; the server must trust the root.pem in it")
	f.StringVar(&o.evidenceCommand, "evidence-command", "", "shell `command` that prints evidence as JSON; it finds "+
		"REPORT_DATA and INIT_DATA (the digest, or nothing) in its environment, in hex")
	f.BoolVar(&o.fixedInitData, "fixed-init-data", false, "the evidence command's machine has no init-data, and cannot be "+
		"given any")
	f.StringVar(&o.adminToken, "admin-token", "", "an administrator's bearer `token`")
	f.StringVar(&o.adminTokenFile, "admin-token-file", "", "`file` of an administrator's bearer token")
	f.StringVar(&o.adminKey, "admin-key", "", "PEM `file` of an administrator's Ed25519 key, of which tokens are made")
	f.StringVar(&o.adminAudience, "admin-audience", "nacre-trustee", "`aud` of tokens made with --admin-key")
	f.StringVar(&o.jwksURL, "jwks-path", "/.well-known/jwks.json", "`path` of the key set that tokens verify with; "+
		"empty: the server has none")
	f.Int64Var(&o.bodyLimit, "body-limit", 2<<20, "`bytes` that the server takes in a body")
	f.StringVar(&o.only, "only", "", "run the cases whose names contain this `text`")
	f.BoolVar(&o.json, "json", false, "print the results as JSON")
	f.BoolVar(&o.strict, "strict", false, "cases that SHOULD hold count like those that MUST")
	f.BoolVar(&o.list, "list", false, "print the cases and what each demands, and end")
	f.Usage = func() {
		fmt.Fprintln(out, "kbs asks a key broker whether it speaks RCAR 0.4.0 and its HTTP interface. It changes the "+
			"server's\npolicies and resources: use one that holds nothing.\n\nUsage: kbs --url URL [flags]\n\nFlags:")
		f.PrintDefaults()
		fmt.Fprintln(out, "\nExit status: 0 conforms, 1 a case failed, 2 nothing could be asked.")
	}
	return f
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run asks the server that the arguments name and returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	f := o.flags(stderr)
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return suite.ExitConforms
	} else if err != nil {
		return suite.ExitUsage
	}
	if o.list {
		for _, c := range cases(&server{options: o}) {
			fmt.Fprintf(stdout, "%-6s %-34s %-24s %s\n", c.Level, c.Name, c.Ref, c.Want)
		}
		return suite.ExitConforms
	}
	s, err := newServer(o)
	if err == nil {
		_, err = s.send(ctx, "GET", "/healthz", nil)
	}
	if err != nil {
		fmt.Fprintln(stderr, "kbs:", err)
		return suite.ExitUsage
	}
	results := suite.Run(ctx, cases(s), o.only, nil)
	write := suite.WriteTable
	if o.json {
		write = suite.WriteJSON
	}
	if err := write(stdout, results); err != nil {
		fmt.Fprintln(stderr, "kbs:", err)
		return suite.ExitUsage
	}
	if suite.Failures(results, o.strict) > 0 {
		return suite.ExitFails
	}
	return suite.ExitConforms
}

// cases are all cases in the order in which they are asked: what changes the server most comes last.
func cases(s *server) []suite.Case {
	var all []suite.Case
	for _, group := range [][]suite.Case{
		s.publicCases(), s.authCases(), s.attestCases(), s.keyCases(), s.tokenCases(), s.adminCases(), s.resourceCases(),
		s.policyCases(),
	} {
		all = append(all, group...)
	}
	return all
}
