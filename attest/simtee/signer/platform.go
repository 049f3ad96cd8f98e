// SPDX-License-Identifier: Apache-2.0

// Package signer is the simulated secure processor: the keys of one simulated machine, and what answers its guests.
//
// It stands where AMD's secure processor stands, with the same rule: what is launched is fixed at launch, and a guest
// can choose nothing of its report but the report data and a VMPL. Guests are hostile to it. What it reads from them
// is of fixed size, and how often it signs is bounded.
//
// It protects nothing: whoever can read its directory can sign what he likes. That is why its root is marked as
// simulated wherever it is trusted. Only host programs link this package.
package signer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/nacre-project/nacre/attest/simtee"
	"github.com/nacre-project/nacre/attest/snp"
)

// The simulated machine: a Genoa processor with firmware levels as they are found in the field.
const (
	product = snp.Genoa
	keyBits = 4096
	hwidLen = 64
)

var (
	cpuid    = snp.CPUID{Family: 0x19, Model: 0x11, Stepping: 0x01}
	firmware = snp.FirmwareVersion{Major: 1, Minor: 55, Build: 40}
	levels   = snp.TCBVersion{Bootloader: 10, TEE: 0, SNP: 23, Microcode: 84}
)

// Files of a platform's directory.
const (
	rootFile = "root.pem" // simtee.FormatRoot: what a trustee is given
	vcekFile = "vcek.pem"
	keyFile  = "vcek.key"
)

// Platform is a simulated machine: a chip with its key, and the chain that endorses it. It is safe for concurrent use.
type Platform struct {
	root   snp.Root
	vcek   *x509.Certificate
	key    *ecdsa.PrivateKey
	chipID [64]byte
}

// Open returns the platform in a directory, and makes one when the directory is not there or empty. Making takes
// seconds, for two RSA keys of AMD's size; they are forgotten once they have signed, so that the directory holds the
// one private key that signs reports. The directory appears complete or not at all.
func Open(dir string) (*Platform, error) {
	p, err := load(dir)
	if !errors.Is(err, errNoPlatform) {
		return p, err
	}
	p, err = create()
	if err != nil {
		return nil, fmt.Errorf("making a simulated platform: %w", err)
	}
	if err := p.save(dir); err != nil {
		// Another process may have been faster.
		if other, loadErr := load(dir); loadErr == nil {
			return other, nil
		}
		return nil, fmt.Errorf("storing a simulated platform in %s: %w", dir, err)
	}
	return p, nil
}

// Root returns the platform's root, marked as simulated.
func (p *Platform) Root() snp.Root { return p.root }

// TCB returns the firmware levels that the platform reports.
func (p *Platform) TCB() snp.TCBVersion { return levels }

// ChipID returns the simulated chip's id.
func (p *Platform) ChipID() [64]byte { return p.chipID }

func create() (*Platform, error) {
	var chipID [64]byte
	if _, err := rand.Read(chipID[:hwidLen]); err != nil {
		return nil, err
	}
	arkKey, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, err
	}
	askKey, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, err
	}
	vcekKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, err
	}

	// The validity periods are AMD's: 25 years for authorities, 7 for chips. They begin a day early, for guests and
	// trustees whose clocks differ.
	begin := time.Now().Add(-24 * time.Hour)
	authority := func(name string) *x509.Certificate {
		return &x509.Certificate{
			Subject:               subject(name),
			NotBefore:             begin,
			NotAfter:              begin.AddDate(25, 0, 0),
			IsCA:                  true,
			BasicConstraintsValid: true,
			KeyUsage:              x509.KeyUsageCertSign,
		}
	}
	extensions, err := vcekExtensions(chipID[:hwidLen])
	if err != nil {
		return nil, err
	}
	arkTemplate := authority("ARK-" + string(product))
	ark, err := issue(arkTemplate, arkTemplate, arkKey.Public(), arkKey)
	if err != nil {
		return nil, err
	}
	ask, err := issue(authority("SEV-"+string(product)), ark, askKey.Public(), arkKey)
	if err != nil {
		return nil, err
	}
	vcek, err := issue(&x509.Certificate{
		Subject:         subject("SEV-VCEK"),
		NotBefore:       begin,
		NotAfter:        begin.AddDate(7, 0, 0),
		ExtraExtensions: extensions,
	}, ask, vcekKey.Public(), askKey)
	if err != nil {
		return nil, err
	}
	return &Platform{
		root: snp.Root{Product: product, ARK: ark, ASK: ask, Simulated: true},
		vcek: vcek, key: vcekKey, chipID: chipID,
	}, nil
}

func subject(name string) pkix.Name {
	return pkix.Name{
		CommonName:         name,
		Organization:       []string{simtee.Organization},
		OrganizationalUnit: []string{"Not AMD"},
	}
}

// issue signs a certificate as AMD does, with RSA-PSS and SHA-384.
func issue(template, issuer *x509.Certificate, key any, issuerKey *rsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	template.SignatureAlgorithm = x509.SHA384WithRSAPSS
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key, issuerKey)
	if err != nil {
		return nil, fmt.Errorf("issuing %s: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

// vcekExtensions returns the extensions of a VCEK (57230, table 8): structure version, product name, the security
// version numbers of the TCB with the four reserved ones, and the hardware id as bare bytes.
func vcekExtensions(hwid []byte) ([]pkix.Extension, error) {
	amd := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}
	var extensions []pkix.Extension
	for _, e := range []struct {
		arc   []int
		value any
	}{
		{[]int{1}, 0},
		{[]int{2}, string(product)},
		{[]int{3, 1}, int(levels.Bootloader)},
		{[]int{3, 2}, int(levels.TEE)},
		{[]int{3, 4}, 0},
		{[]int{3, 5}, 0},
		{[]int{3, 6}, 0},
		{[]int{3, 7}, 0},
		{[]int{3, 3}, int(levels.SNP)},
		{[]int{3, 8}, int(levels.Microcode)},
	} {
		params := ""
		if _, ok := e.value.(string); ok {
			params = "ia5"
		}
		value, err := asn1.MarshalWithParams(e.value, params)
		if err != nil {
			return nil, fmt.Errorf("extension %v: %w", e.arc, err)
		}
		extensions = append(extensions, pkix.Extension{Id: append(amd[:len(amd):len(amd)], e.arc...), Value: value})
	}
	return append(extensions, pkix.Extension{Id: append(amd[:len(amd):len(amd)], 4), Value: hwid}), nil
}

// save writes the platform beside dir and renames it into place.
func (p *Platform) save(dir string) error {
	dir = filepath.Clean(dir)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	staging, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(staging) // gone after the rename, unless something failed
	key, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		rootFile: simtee.FormatRoot(p.root),
		vcekFile: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.vcek.Raw}),
		keyFile:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := writeSynced(filepath.Join(staging, name), data); err != nil {
			return err
		}
	}
	if err := syncDir(staging); err != nil {
		return err
	}
	if err := os.Rename(staging, dir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// errNoPlatform says that a directory is not there or empty. One in which something is missing is another matter.
var errNoPlatform = errors.New("no platform")

func load(dir string) (*Platform, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil, errNoPlatform
	}
	fail := func(err error) (*Platform, error) {
		return nil, fmt.Errorf("loading the simulated platform in %s: %w; remove the directory to make a new one", dir, err)
	}
	if err != nil {
		return fail(err)
	}
	rootPEM, err := os.ReadFile(filepath.Join(dir, rootFile))
	if err != nil {
		return fail(err)
	}
	root, err := simtee.ParseRoot(rootPEM)
	if err != nil {
		return fail(err)
	}
	vcekDER, err := readPEM(filepath.Join(dir, vcekFile), "CERTIFICATE")
	if err != nil {
		return fail(err)
	}
	vcek, err := x509.ParseCertificate(vcekDER)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", vcekFile, err))
	}
	info, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil {
		return fail(err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("loading the simulated platform in %s: %s is open to others (mode %04o); chmod 600 it",
			dir, keyFile, info.Mode().Perm())
	}
	keyDER, err := readPEM(filepath.Join(dir, keyFile), "PRIVATE KEY")
	if err != nil {
		return fail(err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", keyFile, err))
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(vcek.PublicKey) {
		return fail(fmt.Errorf("%s is not the key of %s", keyFile, vcekFile))
	}
	p := &Platform{root: root, vcek: vcek, key: key}
	hwid := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 4}
	for _, e := range vcek.Extensions {
		if e.Id.Equal(hwid) {
			copy(p.chipID[:], e.Value)
		}
	}
	request := snp.VCEKRequest{Product: product, HWID: p.chipID[:hwidLen], TCB: levels}
	if err := request.Check(vcek.Raw); err != nil {
		return fail(err)
	}
	return p, nil
}

func readPEM(path, kind string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s holds no PEM block %q", path, kind)
	}
	return block.Bytes, nil
}
