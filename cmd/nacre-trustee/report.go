// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/nacre-project/nacre/attest/snp"
	"github.com/nacre-project/nacre/internal/trustee/admin"
	"github.com/nacre-project/nacre/internal/trustee/identity"
)

// started is what a start has to tell.
type started struct {
	settings     *settings
	address      string
	cert         tls.Certificate
	certPath     string // "" without TLS
	roots        []snp.Root
	keys         []ed25519.PublicKey
	adminKeyMade bool
}

func (r started) url() string {
	if r.settings.UnsafeHTTP {
		return "http://" + r.address
	}
	return "https://" + r.address
}

func (r started) trusts() []string {
	var names []string
	for _, root := range snp.AMDRoots() {
		names = append(names, "AMD "+root.ARK.Subject.CommonName)
	}
	for _, root := range r.roots {
		names = append(names, rootName(root))
	}
	return names
}

// listening is the line of --json.
type listening struct {
	Event          string   `json:"event"`
	URL            string   `json:"url"`
	Certificate    string   `json:"certificate,omitempty"` // path, PEM
	Fingerprint    string   `json:"certificate_sha256,omitempty"`
	Data           string   `json:"data"`
	KeyFile        string   `json:"key_file"`
	AdminKey       string   `json:"admin_key,omitempty"` // path of the private key, at the first start
	Administrators []string `json:"administrators"`
	// IdentityProviders are the names of others whose tokens make administrators.
	IdentityProviders []string `json:"identity_providers,omitempty"`
	Trusts            []string `json:"trusts"`
}

func (r started) print(out io.Writer) error {
	l := listening{Event: "listening", URL: r.url(), Certificate: r.certPath, Data: r.settings.Data,
		KeyFile: r.settings.KeyFile, Administrators: []string{}, Trusts: r.trusts()}
	if r.certPath != "" {
		l.Fingerprint = identity.Fingerprint(r.cert)
	}
	if r.adminKeyMade {
		l.AdminKey = r.settings.AdminKeyOut
	}
	for _, key := range r.keys {
		l.Administrators = append(l.Administrators, admin.Fingerprint(key))
	}
	for _, p := range r.settings.AdminIdentityProvider {
		l.IdentityProviders = append(l.IdentityProviders, p.Name)
	}
	if r.settings.JSON {
		return json.NewEncoder(out).Encode(l)
	}
	var text strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&text, "  %-14s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&text, "nacre-trustee listens on %s\n", l.URL)
	if l.Certificate != "" {
		line("certificate", "%s", l.Certificate)
		line("", "sha256 %s", l.Fingerprint)
	}
	line("data", "%s, sealed with the key in %s", l.Data, l.KeyFile)
	if len(l.Administrators) > 0 {
		line("administrator", "key %s", strings.Join(l.Administrators, ", "))
	}
	if len(l.IdentityProviders) > 0 {
		line("administrators", "by tokens of %s", strings.Join(l.IdentityProviders, ", "))
	}
	if l.AdminKey != "" {
		line("", "private key in %s: it is the owner's, move it to the owner's machine", l.AdminKey)
	}
	for i, name := range l.Trusts {
		line(map[bool]string{true: "trusts"}[i == 0], "%s", name)
	}
	line("next", "%s", r.next())
	_, err := io.WriteString(out, text.String())
	return err
}

// next is what an owner would do now.
func (r started) next() string {
	flags := " --trustee " + r.url()
	if r.certPath != "" {
		flags += " --trustee-cert " + r.certPath
	}
	return "nacre secret put default/db/password" + flags
}
