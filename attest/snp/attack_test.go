// SPDX-License-Identifier: Apache-2.0

package snp_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/snp"
)

// Each TestAttack is one check's: its attacks deviate from a genuine scene in one point only, everything signed as it
// should be, and succeed if that check alone is gone.

// attack is one change to a genuine scene.
type attack struct {
	name   string
	change func(t *testing.T, s *scene)
}

// repel runs attacks, each of which must be refused with a code, and their positive twin, which must not.
func repel(t *testing.T, code attest.Code, attacks ...attack) {
	t.Helper()
	accept(t, attack{"genuine", func(*testing.T, *scene) {}})
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			s := newScene(t, must(t, genoaVendor))
			a.change(t, s)
			refused(t, s, code)
		})
	}
}

func accept(t *testing.T, scenes ...attack) {
	t.Helper()
	for _, a := range scenes {
		t.Run(a.name, func(t *testing.T) {
			s := newScene(t, must(t, genoaVendor))
			a.change(t, s)
			if _, err := snp.NewVerifier(s.config).Verify(t.Context(), s.evidence(t), s.want); err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func refused(t *testing.T, s *scene, code attest.Code) {
	t.Helper()
	claims, err := snp.NewVerifier(s.config).Verify(t.Context(), s.evidence(t), s.want)
	if err == nil {
		t.Fatalf("the attack succeeds: %v", claims)
	}
	if got := attest.CodeOf(err); got != code {
		t.Errorf("refused with code %q, wanted %q: %v", got, code, err)
	}
}

func TestAttackReportChangedAfterSigning(t *testing.T) {
	for _, a := range []attack{
		{"measurement", func(_ *testing.T, s *scene) { s.report.Measurement[47] ^= 1 }},
		{"policy", func(_ *testing.T, s *scene) { s.report.Policy |= snp.PolicyMigrateMA }},
		{"signature", func(_ *testing.T, s *scene) { s.report.S[0] ^= 1 }},
		{"no signature", func(_ *testing.T, s *scene) { s.report.R, s.report.S = [72]byte{}, [72]byte{} }},
		{"signature number too long", func(_ *testing.T, s *scene) { s.report.R[71] = 1 }},
		{"another guest key", func(t *testing.T, s *scene) {
			other := must(t, func() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) })
			sign(t, s.report, other)
		}},
	} {
		t.Run(a.name, func(t *testing.T) {
			s := newScene(t, must(t, genoaVendor))
			sign(t, s.report, s.signer)
			a.change(t, s)
			_, err := snp.NewVerifier(s.config).Verify(t.Context(), s.document(t), s.want)
			if got := attest.CodeOf(err); got != attest.CodeSignatureInvalid {
				t.Errorf("code %q, wanted %q: %v", got, attest.CodeSignatureInvalid, err)
			}
		})
	}
}

func TestAttackUntrustedRoot(t *testing.T) {
	stranger := must(t, func() (*vendor, error) { return newVendor(snp.Genoa) })
	endorse := func(s *scene) {
		s.issuer, s.issuerKey = stranger.ask, stranger.askKey
		s.config.Roots = nil // AMD's alone
	}
	repel(t, attest.CodeRootUntrusted,
		attack{"a root that nobody named", func(_ *testing.T, s *scene) { endorse(s) }},
		attack{"its authorities in the evidence", func(_ *testing.T, s *scene) {
			endorse(s)
			s.certs = func(vek []byte) []snp.Cert {
				return []snp.Cert{
					{Type: snp.CertARK, Data: stranger.ark.Raw},
					{Type: snp.CertASK, Data: stranger.ask.Raw},
					{Type: snp.CertVCEK, Data: vek},
				}
			}
		}},
		attack{"its intermediate beside a trusted root", func(_ *testing.T, s *scene) {
			s.issuer, s.issuerKey = stranger.ask, stranger.askKey
			s.certs = func(vek []byte) []snp.Cert {
				return []snp.Cert{{Type: snp.CertASK, Data: stranger.ask.Raw}, {Type: snp.CertVCEK, Data: vek}}
			}
		}},
		attack{"a trusted root of another product", func(_ *testing.T, s *scene) {
			s.config.Roots[0].Product = snp.Milan
		}},
		attack{"a configured intermediate that the root did not sign", func(_ *testing.T, s *scene) {
			s.issuer, s.issuerKey, s.config.Roots[0].ASK = stranger.ask, stranger.askKey, stranger.ask
		}},
		attack{"a VCEK of the authority for VLEKs, which the evidence brings", func(_ *testing.T, s *scene) {
			s.issuer, s.config.Roots[0].ASK = s.vendor.asvk, nil
			s.certs = func(vek []byte) []snp.Cert {
				return []snp.Cert{{Type: snp.CertASK, Data: s.vendor.asvk.Raw}, {Type: snp.CertVCEK, Data: vek}}
			}
		}},
		attack{"a VCEK of the key for VLEKs", func(_ *testing.T, s *scene) {
			s.config.Roots[0].ASVK, s.config.Roots[0].ASK = s.vendor.ask, stranger.ask
		}},
		attack{"issued by another algorithm", func(_ *testing.T, s *scene) {
			s.vek.SignatureAlgorithm = x509.SHA256WithRSA
		}},
	)
	accept(t,
		attack{"an intermediate that the trusted root signed, in the evidence", func(_ *testing.T, s *scene) {
			s.config.Roots[0].ASK = nil
			s.certs = func(vek []byte) []snp.Cert {
				return []snp.Cert{{Type: snp.CertASK, Data: s.vendor.ask.Raw}, {Type: snp.CertVCEK, Data: vek}}
			}
		}},
		attack{"a stranger's root in the evidence of a trusted chain", func(_ *testing.T, s *scene) {
			s.certs = func(vek []byte) []snp.Cert {
				return []snp.Cert{{Type: snp.CertARK, Data: stranger.ark.Raw}, {Type: snp.CertVCEK, Data: vek}}
			}
		}},
		attack{"certificates in PEM", func(_ *testing.T, s *scene) {
			s.certs = func(vek []byte) []snp.Cert {
				block := &pem.Block{Type: "CERTIFICATE", Bytes: vek}
				return []snp.Cert{{Type: snp.CertVCEK, Data: pem.EncodeToMemory(block)}}
			}
		}},
	)
}

// TestAttackCertificateOfAnotherKind is about certificates that a trusted root did sign, but not for this use.
func TestAttackCertificateOfAnotherKind(t *testing.T) {
	repel(t, attest.CodeCertificateInvalid,
		attack{"a VLEK as VCEK", func(_ *testing.T, s *scene) { s.vek.Subject.CommonName = "SEV-VLEK" }},
		attack{"no hardware id", func(_ *testing.T, s *scene) { delete(s.extensions, "4") }},
		attack{"a Turin hardware id", func(_ *testing.T, s *scene) {
			s.extensions["4"], s.report.ChipID = s.extensions["4"][:8], [64]byte{}
		}},
		attack{"no microcode level", func(_ *testing.T, s *scene) {
			delete(s.extensions, "3.8")
			s.report.ReportedTCB &^= 0xFF << 56
		}},
		attack{"a level that is the report's but for 256", func(_ *testing.T, s *scene) {
			s.extensions["3.8"] = []byte{2, 2, 1, 4}
		}},
		attack{"bytes after a level", func(_ *testing.T, s *scene) { s.extensions["3.8"] = []byte{2, 1, 4, 0} }},
		attack{"a key on another curve", func(t *testing.T, s *scene) {
			s.signer = must(t, func() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
			s.vekKey = s.signer.Public()
		}},
		attack{"not a certificate", func(_ *testing.T, s *scene) {
			s.certs = func([]byte) []snp.Cert { return []snp.Cert{{Type: snp.CertVCEK, Data: []byte("certificate")}} }
		}},
	)
	accept(t, attack{"a hardware id in an OCTET STRING", func(_ *testing.T, s *scene) {
		s.extensions["4"] = append([]byte{4, 64}, s.extensions["4"]...)
	}})
}

func TestAttackCertificateDates(t *testing.T) {
	repel(t, attest.CodeCertificateExpired,
		attack{"the chip's has run out", func(_ *testing.T, s *scene) { s.vek.NotAfter = s.config.Now().Add(-time.Second) }},
		attack{"the chip's is not valid yet", func(_ *testing.T, s *scene) {
			s.vek.NotBefore = s.config.Now().Add(time.Second)
		}},
		attack{"the intermediate's has run out", func(t *testing.T, s *scene) {
			ask := s.vendor.authority("SEV-Genoa")
			ask.NotAfter = s.config.Now().Add(-time.Second)
			s.issuer = must(t, func() (*x509.Certificate, error) {
				return issue(ask, s.vendor.ark, s.vendor.askKey.Public(), s.vendor.arkKey)
			})
			s.config.Roots[0].ASK = s.issuer
		}},
		attack{"the root's has run out", func(t *testing.T, s *scene) {
			ark := s.vendor.authority("ARK-Genoa")
			ark.NotAfter = s.config.Now().Add(-time.Second)
			s.config.Roots[0].ARK = must(t, func() (*x509.Certificate, error) {
				return issue(ark, ark, s.vendor.arkKey.Public(), s.vendor.arkKey)
			})
		}},
	)
	t.Run("a remembered chain runs out", func(t *testing.T) {
		s := newScene(t, must(t, genoaVendor))
		now := s.config.Now()
		s.config.Now = func() time.Time { return now }
		v := snp.NewVerifier(s.config)
		evidence := s.evidence(t)
		if _, err := v.Verify(t.Context(), evidence, s.want); err != nil {
			t.Fatal(err)
		}
		now = s.vek.NotAfter.Add(time.Second)
		_, err := v.Verify(t.Context(), evidence, s.want)
		if got := attest.CodeOf(err); got != attest.CodeCertificateExpired {
			t.Errorf("code %q, wanted %q: %v", got, attest.CodeCertificateExpired, err)
		}
	})
}

func TestAttackAnotherChip(t *testing.T) {
	repel(t, attest.CodeChipIDMismatch,
		attack{"certificate of another chip", func(_ *testing.T, s *scene) { s.extensions["4"][63] ^= 1 }},
		attack{"report of another chip", func(_ *testing.T, s *scene) { s.report.ChipID[0] ^= 1 }},
	)
	accept(t, attack{"the host hides the chip id", func(_ *testing.T, s *scene) { s.report.ChipID = [64]byte{} }})
}

func TestAttackAnotherTCB(t *testing.T) {
	repel(t, attest.CodeTCBMismatch,
		attack{"bootloader", func(_ *testing.T, s *scene) { s.extensions["3.1"] = []byte{2, 1, 9} }},
		attack{"tee", func(_ *testing.T, s *scene) { s.extensions["3.2"] = []byte{2, 1, 9} }},
		attack{"snp", func(_ *testing.T, s *scene) { s.extensions["3.3"] = []byte{2, 1, 9} }},
		attack{"microcode", func(_ *testing.T, s *scene) { s.extensions["3.8"] = []byte{2, 1, 9} }},
		attack{"report", func(_ *testing.T, s *scene) { s.report.ReportedTCB += 1 << 56 }},
	)
}

func TestAttackLesserVMPL(t *testing.T) {
	repel(t, attest.CodeVMPLNotZero,
		attack{"VMPL 1", func(_ *testing.T, s *scene) { s.report.VMPL = 1 }},
		attack{"VMPL 0xffffffff", func(_ *testing.T, s *scene) { s.report.VMPL = 1<<32 - 1 }},
	)
}

func TestAttackDebug(t *testing.T) {
	debug := func(_ *testing.T, s *scene) { s.report.Policy |= snp.PolicyDebug }
	repel(t, attest.CodeDebugEnabled, attack{"policy with the debug bit", debug})
	accept(t, attack{"where the configuration says so", func(t *testing.T, s *scene) {
		debug(t, s)
		s.config.UnsafeAllowDebug = true
	}})
}

func TestAttackReportData(t *testing.T) {
	repel(t, attest.CodeReportDataMismatch,
		attack{"another session", func(_ *testing.T, s *scene) { s.report.ReportData[0] ^= 1 }},
		attack{"last byte of the digest", func(_ *testing.T, s *scene) { s.report.ReportData[47] ^= 1 }},
		attack{"padding", func(_ *testing.T, s *scene) { s.report.ReportData[63] = 1 }},
		attack{"nothing to compare with", func(_ *testing.T, s *scene) {
			s.report.ReportData, s.want.ReportData = [64]byte{}, nil
		}},
		attack{"more to compare with than fits", func(_ *testing.T, s *scene) {
			s.want.ReportData = append(slices.Clone(s.report.ReportData[:]), 0)
		}},
	)
}

func TestAttackInitData(t *testing.T) {
	repel(t, attest.CodeInitDataMismatch,
		attack{"another digest", func(_ *testing.T, s *scene) { s.report.HostData[31] ^= 1 }},
		attack{"a guest without", func(_ *testing.T, s *scene) { s.report.HostData = [32]byte{} }},
		attack{"bytes after a short digest", func(_ *testing.T, s *scene) {
			s.want.InitDataDigest = s.want.InitDataDigest[:20]
		}},
		attack{"an empty digest", func(_ *testing.T, s *scene) { s.want.InitDataDigest = []byte{} }},
	)
	accept(t,
		attack{"of a longer digest the leftmost bytes", func(_ *testing.T, s *scene) {
			s.want.InitDataDigest = append(slices.Clone(s.want.InitDataDigest), "sixteen more...."...)
		}},
		attack{"a shorter digest, padded", func(_ *testing.T, s *scene) {
			s.want.InitDataDigest = s.want.InitDataDigest[:20]
			clear(s.report.HostData[20:])
		}},
		attack{"none sent", func(_ *testing.T, s *scene) { s.want.InitDataDigest = nil }},
	)
}

// TestAttackForm is about reports that nothing here can judge, however well they are signed.
func TestAttackForm(t *testing.T) {
	repel(t, attest.CodeEvidenceUnsupported,
		attack{"signature algorithm", func(_ *testing.T, s *scene) { s.report.SignatureAlgo = 2 }},
		attack{"signing key", func(_ *testing.T, s *scene) { s.report.KeyInfo = 7 << 2 }},
	)
}

func TestVLEK(t *testing.T) {
	s := newScene(t, must(t, genoaVendor))
	s.byVLEK(t)
	claims, err := snp.NewVerifier(s.config).Verify(t.Context(), s.evidence(t), s.want)
	if err != nil {
		t.Fatal(err)
	}
	if got := claims.Values["csp_id"]; got != "CN=cloud.example" {
		t.Errorf("csp_id is %v", got)
	}
	if got := claims.Values["signing_key"]; got != "vlek" {
		t.Errorf("signing_key is %v", got)
	}

	// A chip's key must not pass for a provider's, which names no chip.
	s.vek.Subject.CommonName = "SEV-VCEK"
	refused(t, s, attest.CodeCertificateInvalid)
	s.vek.Subject.CommonName = "SEV-VLEK"
	s.config.Roots[0].ASVK = nil
	refused(t, s, attest.CodeRootUntrusted)
}

// TestAttackUnknownProduct is a report of a processor that nobody has looked at, under a certificate of one that is
// known. Its own document cannot be written; other envelopes can.
func TestAttackUnknownProduct(t *testing.T) {
	s := newScene(t, must(t, genoaVendor))
	s.report.CPUID.Model = 0x7F
	sign(t, s.report, s.signer)
	e := &snp.Evidence{Report: s.report, Certs: s.certs(s.issueVEK(t))}
	_, err := snp.NewVerifier(s.config).VerifyReport(t.Context(), e, s.want)
	if got := attest.CodeOf(err); got != attest.CodeEvidenceUnsupported {
		t.Errorf("code %q, wanted %q: %v", got, attest.CodeEvidenceUnsupported, err)
	}
}

func TestAttackTurin(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(s *scene)
		want   attest.Code
	}{
		{"genuine", func(*scene) {}, ""},
		{"another FMC level", func(s *scene) { s.extensions["3.9"] = []byte{2, 1, 9} }, attest.CodeTCBMismatch},
		{"no FMC level", func(s *scene) {
			delete(s.extensions, "3.9")
			s.report.ReportedTCB &^= 0xFF
		}, attest.CodeCertificateInvalid},
		{"another chip", func(s *scene) { s.extensions["4"][7] ^= 1 }, attest.CodeChipIDMismatch},
		{"more chip id than the certificate has", func(s *scene) { s.report.ChipID[8] = 1 }, attest.CodeChipIDMismatch},
		{"a Genoa hardware id", func(s *scene) {
			s.extensions["4"], s.report.ChipID = make([]byte, 64), [64]byte{}
		}, attest.CodeCertificateInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScene(t, must(t, turinVendor))
			test.change(s)
			claims, err := snp.NewVerifier(s.config).Verify(t.Context(), s.evidence(t), s.want)
			if got := attest.CodeOf(err); got != test.want {
				t.Fatalf("code %q, wanted %q: %v", got, test.want, err)
			}
			if err == nil && claims.Values["reported_tcb_fmc"] != int64(5) {
				t.Errorf("reported_tcb_fmc is %v, wanted 5", claims.Values["reported_tcb_fmc"])
			}
		})
	}
}
