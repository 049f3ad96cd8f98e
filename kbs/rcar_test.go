// SPDX-License-Identifier: Apache-2.0

package kbs

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

const validRequest = `{"version":"0.4.0","tee":"snp","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512","sm3"]}}`

const validAttestation = `{"init-data":{"format":"toml","body":"version = \"0.1.0\"\n"},` +
	`"runtime-data":{"nonce":"bm9uY2U=","tee-pubkey":{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC",` +
	`"x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}},` +
	`"tee-evidence":{"primary_evidence":{"attestation_report":{}},"additional_evidence":""}}`

func TestRCARMessagesAreExact(t *testing.T) {
	request, err := ParseRequest([]byte(validRequest))
	if err != nil {
		t.Fatal(err)
	}
	attestation, err := ParseAttestation([]byte(validAttestation))
	if err != nil {
		t.Fatal(err)
	}
	withoutInitData := *attestation
	withoutInitData.InitData = nil
	for _, c := range []struct {
		message any
		want    string
	}{
		{request, validRequest},
		{Request{Version: "0.4.0", TEE: "tdx"}, `{"version":"0.4.0","tee":"tdx","extra-params":""}`},
		{Challenge{Nonce: testNonce}, `{"nonce":"bm9uY2U=","extra-params":""}`},
		{attestation, validAttestation},
		{withoutInitData, `{"init-data":null,` + validAttestation[strings.Index(validAttestation, `"runtime-data"`):]},
		{TokenResponse{Token: "a.b.c"}, `{"token":"a.b.c"}`},
		{ErrorInformation{Type: ErrorTypePrefix + "PolicyDeny", Detail: "Access denied by policy"},
			`{"type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny","detail":"Access denied by policy"}`},
		{ErrorInformation{Type: "t", Detail: "d", Code: "c", RequestID: "r"}, `{"type":"t","detail":"d","code":"c","request_id":"r"}`},
	} {
		got, err := json.Marshal(c.message)
		if err != nil || string(got) != c.want {
			t.Errorf("%T is written %s, %v, want %s", c.message, got, err, c.want)
		}
	}
}

func TestParseAttestation(t *testing.T) {
	a, err := ParseAttestation([]byte(validAttestation))
	if err != nil {
		t.Fatal(err)
	}
	if a.InitData == nil || a.InitData.Body != "version = \"0.1.0\"\n" || a.RuntimeData.Nonce != testNonce ||
		a.RuntimeData.TEEPubKey != testJWK || string(a.TEEEvidence.Primary) != `{"attestation_report":{}}` {
		t.Errorf("%+v", a)
	}
	for name, text := range map[string]string{
		"without init-data":   `{` + validAttestation[strings.Index(validAttestation, `"runtime-data"`):],
		"null init-data":      `{"init-data":null,` + validAttestation[strings.Index(validAttestation, `"runtime-data"`):],
		"unknown members":     `{"future":{"a":1},` + validAttestation[1:],
		"evidence is a text":  strings.Replace(validAttestation, `{"attestation_report":{}}`, `"quote"`, 1),
		"additional evidence": strings.Replace(validAttestation, `"additional_evidence":""`, `"additional_evidence":"{\"nvidia\":{}}"`, 1),
	} {
		if _, err := ParseAttestation([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseRequestRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing": "", "null": "null", "an array": "[]", "cut": validRequest[:20], "text after": validRequest + "{}",
		"no version":       strings.Replace(validRequest, "version", "Version", 1),
		"no tee":           strings.Replace(validRequest, "tee", "TEE", 1),
		"no extra-params":  `{"version":"0.4.0","tee":"snp"}`,
		"version a number": strings.Replace(validRequest, `"0.4.0"`, "0.4", 1),
		"tee null":         strings.Replace(validRequest, `"snp"`, "null", 1),
		"older version":    strings.Replace(validRequest, "0.4.0", "0.2.0", 1),
		"newer version":    strings.Replace(validRequest, "0.4.0", "0.4.1", 1),
		"tee twice":        `{"tee":"sample",` + validRequest[1:],
		"not UTF-8":        strings.Replace(validRequest, "snp", "\xff", 1),
		"too long":         `{"pad":"` + strings.Repeat("a", MaxRequestSize) + `",` + validRequest[1:],
		"deep":             strings.Replace(validRequest, `["sha256"`, strings.Repeat("[", 20_000), 1),
	} {
		if _, err := ParseRequest([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	_, err := ParseRequest([]byte(strings.Replace(validRequest, "0.4.0", "0.1.1", 1)))
	if !errors.Is(err, ErrVersion) ||
		!strings.Contains(
			err.Error(),
			"KBS Client Protocol Version Mismatch: expect =0.4.0 while the request is 0.1.1",
		) {
		t.Errorf("another version: %v", err)
	}
}

func TestParseAttestationRefuses(t *testing.T) {
	swap := func(old, replacement string) string {
		if !strings.Contains(validAttestation, old) {
			t.Fatalf("%s is not in the message", old)
		}
		return strings.Replace(validAttestation, old, replacement, 1)
	}
	for name, text := range map[string]string{
		"nothing": "", "null": "null", "cut": validAttestation[:100], "text after": validAttestation + "1",
		"no runtime-data": swap(`"runtime-data"`, `"runtime_data"`),
		"no tee-evidence": swap(`"tee-evidence"`, `"tee_evidence"`),
		"no nonce":        swap(`"nonce"`, `"Nonce"`), "nonce a number": swap(`"bm9uY2U="`, `1`),
		"long nonce": swap("bm9uY2U=", strings.Repeat("a", MaxNonceLength+1)),
		"no key":     swap(`"tee-pubkey"`, `"tee_pubkey"`),
		"key null":   swap(`"tee-pubkey":{`, `"tee-pubkey":null,"x":{`), "bad key": swap(`"P-256"`, `"P-384"`),
		"no primary":           swap(`"primary_evidence"`, `"primary-evidence"`),
		"no additional":        swap(`"additional_evidence"`, `"additional-evidence"`),
		"additional an object": swap(`"additional_evidence":""`, `"additional_evidence":{}`),
		"init-data a text":     swap(`{"format":"toml","body":"version = \"0.1.0\"\n"}`, `"x"`),
		"init-data as JSON":    swap(`"toml"`, `"json"`),
		"no format":            swap(`"format"`, `"Format"`),
		"no body":              swap(`"body"`, `"Body"`),
		"body null":            swap(`"version = \"0.1.0\"\n"`, "null"),
		"too long":             `{"pad":"` + strings.Repeat("a", MaxAttestationSize) + `",` + validAttestation[1:],
		"deep":                 swap(`{"attestation_report":{}}`, strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)),
	} {
		if _, err := ParseAttestation([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Were the last of two members taken here and the first there, two programs would see different keys in one message.
func TestAttackMemberTwice(t *testing.T) {
	for name, text := range map[string]string{
		"tee-evidence": `{"tee-evidence":{},` + validAttestation[1:],
		"nonce":        strings.Replace(validAttestation, `"nonce":`, `"nonce":"b3RoZXI=","nonce":`, 1),
		"by escape":    strings.Replace(validAttestation, `"nonce":`, `"\u006eonce":"b3RoZXI=","nonce":`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseAttestation([]byte(text)); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// A member in another case is another member: it is dropped, and does not stand in for the one that was meant.
func TestAttackMemberInAnotherCase(t *testing.T) {
	a, err := ParseAttestation(
		[]byte(strings.Replace(validAttestation, `"nonce":"bm9uY2U="`, `"nonce":"bm9uY2U=","NONCE":"b3RoZXI="`, 1)),
	)
	if err != nil || a.RuntimeData.Nonce != testNonce {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestParseChallenge(t *testing.T) {
	for text, want := range map[string]HashAlgorithm{
		`{"nonce":"a","extra-params":""}`:                                     SHA384,
		`{"nonce":"a"}`:                                                       SHA384,
		`{"nonce":"a","extra-params":{}}`:                                     SHA384,
		`{"nonce":"a","extra-params":null}`:                                   SHA384,
		`{"nonce":"a","extra-params":{"selected-hash-algorithm":null}}`:       SHA384,
		`{"nonce":"a","extra-params":{"selected-hash-algorithm":"sha512"}}`:   SHA512,
		`{"nonce":"a","extra-params": {"selected-hash-algorithm":"SHA256"} }`: SHA256,
	} {
		c, err := ParseChallenge([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := c.hash(); got != want || err != nil {
			t.Errorf("%s: %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", `{}`, `{"nonce":""}`, `{"nonce":1}`, `{"nonce":"` + strings.Repeat("a", MaxNonceLength+1) + `"}`,
		`{"nonce":"a","nonce":"b"}`} {
		if _, err := ParseChallenge([]byte(text)); err == nil {
			t.Errorf("%s: accepted", clip(text))
		}
	}
	for _, extra := range []string{`{"selected-hash-algorithm":"sm3"}`, `{"selected-hash-algorithm":384}`,
		`{"selected-hash-algorithm":"sha1","selected-hash-algorithm":"sha384"}`} {
		c, err := ParseChallenge([]byte(`{"nonce":"a","extra-params":` + extra + `}`))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.hash(); err == nil {
			t.Errorf("%s: accepted as %s", extra, got)
		}
	}
}

func TestParseTokenResponse(t *testing.T) {
	if r, err := ParseTokenResponse([]byte(`{"token":"a.b.c","future":1}`)); err != nil || r.Token != "a.b.c" {
		t.Errorf("%+v, %v", r, err)
	}
	for _, text := range []string{"", "a.b.c", `{"Token":"a.b.c"}`, `{"token":null}`, `{"token":"a","token":"b"}`} {
		if _, err := ParseTokenResponse([]byte(text)); err == nil {
			t.Errorf("%s: accepted", text)
		}
	}
}

func TestErrorInformation(t *testing.T) {
	for body, want := range map[string]ErrorInformation{
		`{"type":"t","detail":"d","code":"c","request_id":"r","more":1}`: {Type: "t", Detail: "d", Code: "c", RequestID: "r"},
		`{"type":1,"detail":"d"}`:                {Detail: "d"},
		"<html>Bad gateway</html>\n":             {Detail: "<html>Bad gateway</html>"},
		"":                                       {},
		`{"detail":"line\u001b[31m\none\u009b"}`: {Detail: "line [31m one"},
		`{"detail":"` + strings.Repeat("a", 5000) + `"}`:  {Detail: strings.Repeat("a", maxErrorText)},
		strings.Repeat("b", 5000):                         {Detail: strings.Repeat("b", maxErrorText)},
		"{\"detail\":\"a\",\"detail\":\"b\"}":             {Detail: `{"detail":"a","detail":"b"}`},
		strings.Repeat("é", maxErrorText/2) + "\xc3 rest": {Detail: strings.Repeat("é", maxErrorText/2)},
	} {
		if got := parseErrorInformation([]byte(body)); got != want {
			t.Errorf("%s: %+v, want %+v", clip(body), got, want)
		}
	}
}

func FuzzRCAR(f *testing.F) {
	for _, seed := range []string{validRequest, validAttestation, `{"nonce":"a","extra-params":{"selected-hash-algorithm":"sha512"}}`,
		`{"token":"a.b.c"}`, `{"type":"t","detail":"d"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if r, err := ParseRequest(body); err == nil {
			roundTrip(t, r, ParseRequest)
		}
		if a, err := ParseAttestation(body); err == nil {
			if _, err := ReportData(a.RuntimeData.Nonce, a.RuntimeData.TEEPubKey, a.TEEEvidence.Additional); err != nil {
				t.Fatal(err)
			}
			roundTrip(t, a, ParseAttestation)
		}
		if c, err := ParseChallenge(body); err == nil {
			_, _ = c.hash()
			roundTrip(t, c, ParseChallenge)
		}
		if r, err := ParseTokenResponse(body); err == nil {
			roundTrip(t, r, ParseTokenResponse)
		}
		_ = parseErrorInformation(body)
	})
}

// roundTrip writes a message, and wants what it says and how it is written to be the same after parsing that.
func roundTrip[M any](t *testing.T, message *M, parse func([]byte) (*M, error)) {
	t.Helper()
	text, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	back, err := parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	if again, err := json.Marshal(back); err != nil || string(again) != string(text) {
		t.Fatalf("%s came back as %s, %v", text, again, err)
	}
}

func BenchmarkParseAttestation(b *testing.B) {
	evidence := `{"attestation_report":{"signature":[` + strings.Repeat("255,", 4000) + `0]}}`
	body := []byte(strings.Replace(validAttestation, `{"attestation_report":{}}`, evidence, 1))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseAttestation(body); err != nil {
			b.Fatal(err)
		}
	}
}
