// SPDX-License-Identifier: Apache-2.0

package signer

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"

	"golang.org/x/time/rate"

	"github.com/nacre-project/nacre/attest/simtee"
	"github.com/nacre-project/nacre/attest/snp"
)

// DefaultPolicy is the guest policy of a launch that names none: SMT allowed, no debugging, no migration.
const DefaultPolicy = uint64(snp.PolicyReservedOne | snp.PolicySMT)

const (
	reportVersion = 3

	// A guest attests when a token has run out: some reports at once, then hardly any.
	reportsPerSecond = 5
	reportBurst      = 20

	// maxGarbage is how many bytes without a request a guest may send before its line is cut. A guest that was reset
	// in the middle of a request sends less than one request of garbage.
	maxGarbage = 64 << 10
)

// Launch is what a guest was launched with.
type Launch struct {
	Measurement [48]byte
	HostData    [32]byte
	Policy      uint64 // guest policy; 0 is DefaultPolicy
}

// Processor answers for one launched guest. It is safe for concurrent use.
type Processor struct {
	platform *Platform
	launch   Launch
	reportID [32]byte
	limit    *rate.Limiter
}

// Launch returns the processor of one guest. Its report id is random.
func (p *Platform) Launch(l Launch) *Processor {
	if l.Policy == 0 {
		l.Policy = DefaultPolicy
	}
	proc := &Processor{platform: p, launch: l, limit: rate.NewLimiter(reportsPerSecond, reportBurst)}
	rand.Read(proc.reportID[:]) // never fails
	return proc
}

// Report signs a report. It returns the report's snp.ReportSize bytes and the certificate table that hosts provide.
func (p *Processor) Report(reportData [64]byte, vmpl uint32) (report, certTable []byte, err error) {
	if vmpl > simtee.MaxVMPL {
		return nil, nil, fmt.Errorf("signing a report: VMPL %d, the last is %d", vmpl, simtee.MaxVMPL)
	}
	r, err := p.sign(p.unsigned(reportData, vmpl))
	if err != nil {
		return nil, nil, fmt.Errorf("signing a report: %w", err)
	}
	certTable, err = snp.MarshalCertTable(p.certs())
	if err != nil {
		return nil, nil, err
	}
	return r.Marshal(), certTable, nil
}

// Evidence returns the evidence document that a guest makes of a report. Report data of less than 64 bytes is padded
// with zero bytes on the right.
func (p *Processor) Evidence(reportData []byte) (json.RawMessage, error) {
	var field [64]byte
	if len(reportData) > len(field) {
		return nil, fmt.Errorf("making evidence: report data has %d bytes, at most %d fit", len(reportData), len(field))
	}
	copy(field[:], reportData)
	r, err := p.sign(p.unsigned(field, 0))
	if err != nil {
		return nil, fmt.Errorf("making evidence: %w", err)
	}
	return json.Marshal(&snp.Evidence{Report: r, Certs: p.certs()})
}

func (p *Processor) certs() []snp.Cert {
	return []snp.Cert{{Type: snp.CertVCEK, Data: p.platform.vcek.Raw}}
}

func (p *Processor) unsigned(reportData [64]byte, vmpl uint32) *snp.Report {
	tcb := levels.TCB(product)
	r := &snp.Report{
		Version:       reportVersion,
		Policy:        snp.Policy(p.launch.Policy),
		VMPL:          vmpl,
		SignatureAlgo: 1, // ECDSA on P-384 with SHA-384
		CurrentTCB:    tcb,
		PlatformInfo:  snp.PlatformSMT | snp.PlatformECC | snp.PlatformAliasCheckComplete,
		ReportData:    reportData,
		Measurement:   p.launch.Measurement,
		HostData:      p.launch.HostData,
		ReportID:      p.reportID,
		ReportedTCB:   tcb,
		CPUID:         cpuid,
		ChipID:        p.platform.chipID,
		CommittedTCB:  tcb,
		Current:       firmware,
		Committed:     firmware,
		LaunchTCB:     tcb,
	}
	for i := range r.ReportIDMA {
		r.ReportIDMA[i] = 0xFF // no migration agent
	}
	return r
}

// sign signs r in place: SHA-384 over the first 0x2A0 bytes.
func (p *Processor) sign(r *snp.Report) (*snp.Report, error) {
	digest := sha512.Sum384(r.Marshal()[:0x2A0])
	x, y, err := ecdsa.Sign(rand.Reader, p.platform.key, digest[:])
	if err != nil {
		return nil, err
	}
	r.R, r.S = littleEndian(x), littleEndian(y)
	return r, nil
}

func littleEndian(n *big.Int) (b [72]byte) {
	n.FillBytes(b[:])
	slices.Reverse(b[:])
	return b
}

// Serve answers the requests of one guest until the context ends, the guest hangs up, or it sends nothing but garbage.
// It closes conn. The error is nil when the guest hung up between requests, and the context's when that ended.
//
// A guest that asks too often waits.
func (p *Processor) Serve(ctx context.Context, conn io.ReadWriteCloser) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })() // ends reads and writes under way
	err := p.serve(ctx, conn)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (p *Processor) serve(ctx context.Context, conn io.ReadWriter) error {
	in := bufio.NewReaderSize(conn, 4*simtee.RequestSize)
	for {
		b, err := nextRequest(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a guest's request for a report: %w", err)
		}
		if err := p.limit.Wait(ctx); err != nil {
			return err
		}
		response := simtee.Response{Status: simtee.StatusBadRequest}
		if request, err := simtee.ParseRequest(b); err == nil {
			response = p.answer(request)
		}
		if err := simtee.WriteResponse(conn, response); err != nil {
			return fmt.Errorf("answering a guest's request for a report: %w", err)
		}
	}
}

func (p *Processor) answer(request simtee.Request) simtee.Response {
	report, table, err := p.Report(request.ReportData, request.VMPL)
	if err != nil {
		return simtee.Response{Status: simtee.StatusFailed}
	}
	return simtee.Response{Status: simtee.StatusOK, Report: report, CertTable: table}
}

// nextRequest returns the next RequestSize bytes that begin with the magic, and passes over what is before them. The
// error is io.EOF when the line ends between requests.
func nextRequest(in *bufio.Reader) ([]byte, error) {
	for skipped := 0; ; skipped++ {
		b, err := in.Peek(len(simtee.RequestMagic))
		if err != nil {
			return nil, err
		}
		if string(b) == simtee.RequestMagic {
			break
		}
		if skipped == maxGarbage {
			return nil, fmt.Errorf("%d bytes without a request", maxGarbage)
		}
		if _, err := in.Discard(1); err != nil {
			return nil, err
		}
	}
	b := make([]byte, simtee.RequestSize)
	if _, err := io.ReadFull(in, b); err != nil {
		return nil, err
	}
	return b, nil
}
