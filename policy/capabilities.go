// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// clock is the builtin that [Options.Clock] is for.
const clock = "time.now_ns"

// pure are the namespaces of builtins that a policy may call; those without one are Rego's basic functions. The list names what is
// allowed, so that a function that the engine learns tomorrow is refused until somebody has looked at it. Absent
// because they reach out or are not a function of their arguments: http, net.lookup_ip_addr, opa, rand, uuid, trace,
// providers. Absent because no policy needs them and they carry large parsers: graphql, io.jwt, crypto.x509,
// crypto.parse_private_keys, rego, json.*_schema.
var pure = strings.Fields(`array base64 base64url bits crypto crypto.hmac glob graph hex internal json net numbers object
	regex semver strings time units uri urlquery yaml`)

// refused are exceptions from pure.
var refused = []string{"net.lookup_ip_addr", "crypto.parse_private_keys", "json.verify_schema", "json.match_schema",
	"trace", "strings.render_template"}

// allowed are the engine's capabilities that are left to policies in a version of the language.
func allowed(version ast.RegoVersion, options Options) *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(version))
	c.AllowNet = []string{} // nil would mean any host
	c.Features = slices.DeleteFunc(c.Features, func(feature string) bool {
		return feature == ast.FeatureRegoV2 || feature == ast.FeatureRegoV2Import // not settled yet
	})
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		if b.Name == clock {
			return options.Clock == nil
		}
		dot := strings.LastIndexByte(b.Name, '.')
		known := dot < 0 || slices.Contains(pure, b.Name[:dot])
		return b.Nondeterministic || !known || slices.Contains(refused, b.Name)
	})
	for _, builtin := range options.Builtins {
		c.Builtins = append(c.Builtins, declare(builtin))
	}
	return c
}
