// SPDX-License-Identifier: Apache-2.0

package snp_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/snp"
)

// sample returns evidence of a report version for tests of the document's form.
func sample(version uint32) *snp.Evidence {
	r := &snp.Report{Version: version, Policy: 1<<64 - 1, SignatureAlgo: 1, ReportedTCB: 0x0403000000000201}
	for i := range r.ChipID {
		r.ChipID[i] = byte(i)
	}
	if version >= 3 {
		r.CPUID = snp.CPUID{Family: 0x19, Model: 0x11, Stepping: 1}
	}
	if version >= 5 {
		r.LaunchMitVector, r.CurrentMitVector = 1<<63, 3
	}
	r.R[0], r.S[71] = 1, 255
	return &snp.Evidence{Report: r, Certs: []snp.Cert{
		{snp.CertARK, []byte{1}}, {snp.CertASK, []byte{2}}, {snp.CertVCEK, []byte{3}}, {snp.CertVLEK, []byte{4}},
		{snp.CertCRL, []byte{}}, {snp.CertEmpty, []byte{5}}, {"ecae0c0f-9502-43b1-afa2-0ae2e0d565b6", []byte{0, 255}},
	}}
}

func TestEvidenceIdentity(t *testing.T) {
	turin := sample(3)
	turin.Report.CPUID = snp.CPUID{Family: 0x1A, Model: 0x02}
	turin.Report.ReportedTCB = 0x0500000004030201
	old := sample(2)
	clear(old.Report.ChipID[8:]) // the shape of a Turin chip id
	old.Report.ReportedTCB = 0x0500000004030201
	for name, e := range map[string]*snp.Evidence{
		"version 2": sample(2), "version 3": sample(3), "version 4": sample(4), "version 5": sample(5),
		"Turin": turin, "Turin version 2": old,
		"no certificates":   {Report: sample(3).Report},
		"zero certificates": {Report: sample(3).Report, Certs: []snp.Cert{}},
	} {
		document, err := json.Marshal(e)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		again, err := snp.ParseEvidence(document)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(again, e) {
			t.Errorf("%s: evidence, document, evidence is not the identity:\n%s", name, document)
		}
		redone, err := json.Marshal(again)
		if err != nil || !bytes.Equal(redone, document) {
			t.Errorf("%s: document, evidence, document is not the identity: %v", name, err)
		}
	}
}

func TestMarshalEvidenceRefusesLoss(t *testing.T) {
	for name, change := range map[string]func(*snp.Evidence){
		"no report":          func(e *snp.Evidence) { e.Report = nil },
		"reserved TCB bytes": func(e *snp.Evidence) { e.Report.LaunchTCB = 1 << 24 },
		"unknown product":    func(e *snp.Evidence) { e.Report.CPUID.Family = 0x17 },
	} {
		e := sample(3)
		change(e)
		if document, err := json.Marshal(e); err == nil {
			t.Errorf("%s: marshalled as %s", name, document)
		}
	}
}

func TestParseEvidenceHostile(t *testing.T) {
	good := string(must(t, func() ([]byte, error) { return json.Marshal(sample(3)) }))
	five := string(must(t, func() ([]byte, error) { return json.Marshal(sample(5)) }))
	replace := func(s, old, new string) string {
		if !strings.Contains(s, old) {
			t.Fatalf("%q is not in the document", old)
		}
		return strings.Replace(s, old, new, 1)
	}
	for _, test := range []struct {
		name, document string
		want           attest.Code
	}{
		{"as it is", good, ""},
		{"space", "\n" + strings.ReplaceAll(good, ",", ",\n\t "), ""},
		{"an unknown member", replace(good, `"version"`, `"later":[{}],"version"`), ""},
		{"mitigation vectors null before version 5",
			replace(good, `"signature"`, `"launch_mit_vector":null,"signature"`), ""},
		{"mitigation vectors missing in version 5", replace(five, `"current_mit_vector":3,`, ``), ""},

		{"nothing", ``, attest.CodeEvidenceMalformed},
		{"null", `null`, attest.CodeEvidenceMalformed},
		{"an empty object", `{}`, attest.CodeEvidenceMalformed},
		{"a list", `[]`, attest.CodeEvidenceMalformed},
		{"an empty report", `{"attestation_report":{}}`, attest.CodeEvidenceMalformed},
		{"something after it", good + good, attest.CodeEvidenceMalformed},
		{"cut off", good[:len(good)/2], attest.CodeEvidenceMalformed},
		{"depth", strings.Repeat("[", 1<<16), attest.CodeEvidenceMalformed},
		{"size", strings.Repeat(" ", snp.MaxEvidenceSize) + good, attest.CodeEvidenceMalformed},
		{"version 6", replace(good, `"version":3`, `"version":6`), attest.CodeEvidenceUnsupported},
		{"version -1", replace(good, `"version":3`, `"version":-1`), attest.CodeEvidenceMalformed},
		{"version 2^32", replace(good, `"version":3`, `"version":4294967296`), attest.CodeEvidenceMalformed},
		{"a policy beyond 64 bits",
			replace(good, `18446744073709551615`, `18446744073709551616`), attest.CodeEvidenceMalformed},
		{"a byte too few", replace(good, `"host_data":[0,`, `"host_data":[`), attest.CodeEvidenceMalformed},
		{"a byte too many", replace(good, `"host_data":[`, `"host_data":[0,`), attest.CodeEvidenceMalformed},
		{"no host data", replace(good, `"host_data"`, `"hostdata"`), attest.CodeEvidenceMalformed},
		{"a byte of 256", replace(good, `"host_data":[0,`, `"host_data":[256,`), attest.CodeEvidenceMalformed},
		{"a byte of 1000", replace(good, `"host_data":[0,`, `"host_data":[1000,`), attest.CodeEvidenceMalformed},
		{"a byte of 1.0", replace(good, `"host_data":[0,`, `"host_data":[1.0,`), attest.CodeEvidenceMalformed},
		{"a byte of 1e0", replace(good, `"host_data":[0,`, `"host_data":[1e0,`), attest.CodeEvidenceMalformed},
		{"a byte of -1", replace(good, `"host_data":[0,`, `"host_data":[-1,`), attest.CodeEvidenceMalformed},
		{"a byte in quotes", replace(good, `"host_data":[0,`, `"host_data":["0",`), attest.CodeEvidenceMalformed},
		{"a list of lists", replace(good, `"host_data":[0,`, `"host_data":[[0],`), attest.CodeEvidenceMalformed},
		{"base64", replace(good, `"data":[3]`, `"data":"Aw=="`), attest.CodeEvidenceMalformed},
		{"CPUID null in version 3", replace(good, `"cpuid_step":1`, `"cpuid_step":null`), attest.CodeEvidenceMalformed},
		{"CPUID in version 2", replace(good, `"version":3`, `"version":2`), attest.CodeEvidenceMalformed},
		{"an unknown product", replace(good, `"cpuid_fam_id":25`, `"cpuid_fam_id":23`), attest.CodeEvidenceUnsupported},
		{"FMC on Genoa", replace(good, `"fmc":null`, `"fmc":0`), attest.CodeEvidenceMalformed},
		{"no FMC on Turin", replace(good, `"cpuid_fam_id":25`, `"cpuid_fam_id":26`), attest.CodeEvidenceMalformed},
		{"mitigation vectors before version 5", replace(five, `"version":5`, `"version":4`), attest.CodeEvidenceMalformed},
		{"a certificate type that is none", replace(good, `"VCEK"`, `"VCEKS"`), attest.CodeEvidenceMalformed},
		{"a certificate type by GUID that is none",
			replace(good, `"OTHER":"ecae`, `"OTHER":"ECAE`), attest.CodeEvidenceMalformed},
		{"a certificate without type", replace(good, `"cert_type":"VCEK",`, ``), attest.CodeEvidenceMalformed},
		{"a certificate without data", replace(good, `"VCEK","data":[3]`, `"VCEK"`), attest.CodeEvidenceMalformed},
		{"a certificate that is null", replace(good, `"cert_chain":[`, `"cert_chain":[null,`), attest.CodeEvidenceMalformed},
		{"too many certificates",
			replace(good, `"cert_chain":[`, `"cert_chain":[`+strings.Repeat(`{"cert_type":"ARK","data":[]},`, 10)),
			attest.CodeEvidenceMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := snp.ParseEvidence([]byte(test.document))
			if got := attest.CodeOf(err); got != test.want {
				t.Errorf("code %q, wanted %q: %v", got, test.want, err)
			}
		})
	}
}

func FuzzParseEvidence(f *testing.F) {
	for version := uint32(2); version <= 5; version++ {
		document, err := json.Marshal(sample(version))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(document)
	}
	v := snp.NewVerifier(snp.Config{Now: func() time.Time { return time.Unix(1e9, 0) }})
	f.Fuzz(func(t *testing.T, document []byte) {
		e, err := snp.ParseEvidence(document)
		if err != nil {
			if attest.CodeOf(err) == "" {
				t.Errorf("a refusal without a code: %v", err)
			}
			return
		}
		again, err := json.Marshal(e)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		parsed, err := snp.ParseEvidence(again)
		if err != nil || !reflect.DeepEqual(parsed, e) {
			t.Errorf("evidence, document, evidence is not the identity: %v", err)
		}
		if _, err := snp.ParseReport(e.Report.Marshal()); err != nil {
			t.Errorf("the report of a document is none in bytes: %v", err)
		}
		if _, err := v.Verify(t.Context(), document, attest.Expected{ReportData: []byte{1}}); err == nil {
			t.Error("made-up evidence verifies")
		} else if _, ok := errors.AsType[*attest.Error](err); !ok {
			t.Errorf("a refusal without a code: %v", err)
		}
	})
}
