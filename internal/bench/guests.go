// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attest/simtee/signer"
	"github.com/nacre-project/nacre/attest/snp"
	"github.com/nacre-project/nacre/initdata"
	"github.com/nacre-project/nacre/kbs"
	"github.com/nacre-project/nacre/policy/templates"
)

// Where guests ask.
const (
	authPath     = "/kbs/v0/auth"
	attestPath   = "/kbs/v0/attest"
	resourcePath = "/kbs/v0/resource/" + secretPath
)

// fleet is guests that were all launched in the same way, by a processor that signs for them here.
type fleet struct {
	initData  []byte
	launch    signer.Launch
	platform  *signer.Platform
	processor *signer.Processor
}

// newFleet describes guests with the init-data. No guest is started, so that the launch measurement may be any.
func newFleet(platform *signer.Platform, initData []byte) (*fleet, error) {
	digest, err := initdata.Digest(initData)
	if err != nil {
		return nil, err
	}
	f := &fleet{initData: initData, platform: platform}
	copy(f.launch.Measurement[:], "a launch measurement; it has to be the same only")
	f.launch.HostData = snp.HostData(digest)
	f.processor = platform.Launch(f.launch)
	return f, nil
}

// provision does what the owner does: a secret, the fleet's reference values, a release policy that names both. Each
// policy is padded as said by pad.
func (f *fleet) provision(ctx context.Context, a *administrator, padded bool) error {
	tcb := f.platform.TCB()
	initData := fmt.Sprintf("%x", f.launch.HostData)
	if err := a.RegisterReferenceValue(ctx, map[string]any{
		"snp_launch_measurement": []string{fmt.Sprintf("%x", f.launch.Measurement)}, "init_data": []string{initData},
		"snp_bootloader": []int{int(tcb.Bootloader)}, "snp_tee_svn": []int{int(tcb.TEE)},
		"snp_snp_svn": []int{int(tcb.SNP)}, "snp_microcode": []int{int(tcb.Microcode)},
	}); err != nil {
		return err
	}
	if err := a.PutResource(ctx, secretPath, []byte(secretValue)); err != nil {
		return err
	}
	release, err := templates.Affirming{Resources: []string{secretPath}, InitData: []string{initData}}.Rego()
	if err != nil {
		return err
	}
	if padded {
		appraisal, err := a.attestationPolicy(ctx)
		if err != nil {
			return err
		}
		if err := a.SetAttestationPolicy(ctx, appraisalPolicyID, padAppraisal(appraisal)); err != nil {
			return err
		}
		release = padRelease(release)
	}
	return a.SetResourcePolicy(ctx, release, kbs.ReleaseOptions{AllowSimulated: true})
}

// attestation is a guest that is ready to present its evidence.
type attestation struct {
	key     *kbs.TEEKey
	request request
}

// attestations asks for challenges and makes evidence for them, by all clients of the crowd.
func (f *fleet) attestations(ctx context.Context, c *crowd, count int) ([]attestation, error) {
	list := make([]attestation, count)
	_, err := load{clients: len(c.clients), requests: count, do: func(ctx context.Context, i, n int) (err error) {
		list[n], err = f.attestation(ctx, c.clients[i], c.url)
		return err
	}}.run(ctx)
	return list, err
}

func (f *fleet) attestation(ctx context.Context, client *http.Client, url string) (attestation, error) {
	hello := kbs.Request{Version: kbs.ProtocolVersion, TEE: attest.SNP, ExtraParams: json.RawMessage("{}")}
	body, err := json.Marshal(hello)
	if err != nil {
		return attestation{}, err
	}
	answer, header, err := send(ctx, client, url, request{method: http.MethodPost, path: authPath, body: body})
	if err != nil {
		return attestation{}, err
	}
	challenge, err := kbs.ParseChallenge(answer)
	if err != nil {
		return attestation{}, err
	}
	a := attestation{request: request{method: http.MethodPost, path: attestPath}}
	for _, cookie := range (&http.Response{Header: header}).Cookies() {
		if cookie.Name == kbs.SessionCookie {
			a.request.cookie = cookie.Value
		}
	}
	if a.key, err = kbs.GenerateTEEKey(kbs.ECDHP256); err != nil {
		return attestation{}, err
	}
	reportData, err := kbs.ReportData(challenge.Nonce, a.key.Public(), "")
	if err != nil {
		return attestation{}, err
	}
	evidence, err := f.processor.Evidence(reportData)
	if err != nil {
		return attestation{}, err
	}
	a.request.body, err = json.Marshal(kbs.Attestation{
		InitData:    &kbs.InitData{Format: kbs.InitDataFormat, Body: string(f.initData)},
		RuntimeData: kbs.RuntimeData{Nonce: challenge.Nonce, TEEPubKey: a.key.Public()},
		TEEEvidence: kbs.TEEEvidence{Primary: evidence},
	})
	return a, err
}

// requests are the attestations' requests.
func requests(list []attestation) []request {
	out := make([]request, len(list))
	for i, a := range list {
		out[i] = a.request
	}
	return out
}

// bearers turns the answers to attestations into count requests for the secret, with each token in turn.
func bearers(answers [][]byte, count int) ([]request, error) {
	tokens := make([]string, len(answers))
	for i, body := range answers {
		response, err := kbs.ParseTokenResponse(body)
		if err != nil {
			return nil, err
		}
		tokens[i] = response.Token
	}
	out := make([]request, count)
	for i := range out {
		out[i] = request{method: http.MethodGet, path: resourcePath, bearer: tokens[i%len(tokens)]}
	}
	return out, nil
}

// check opens an answer as the guest would, so that what is measured is known to work.
func (a attestation) check(answer []byte) error {
	envelope, err := kbs.ParseEnvelope(answer)
	if err != nil {
		return err
	}
	value, err := a.key.Open(envelope)
	if err != nil {
		return err
	}
	if string(value.Reveal()) != secretValue {
		return errors.New("the secret that arrived is another one than was put in")
	}
	return nil
}
