// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/nacre-project/nacre/attest/simtee"
	"github.com/nacre-project/nacre/attest/snp"
)

const (
	// simulatedTimeout bounds one exchange with the simulated processor. It signs in a millisecond, but may make a
	// guest wait that asks too often.
	simulatedTimeout = 30 * time.Second

	// simulatedAnswers bounds the answers that one exchange reads.
	simulatedAnswers = 4

	// reportDataOffset is where a report has its report data.
	reportDataOffset = 0x50
)

// simulated gets reports from a simulated secure processor, over a virtio-serial port.
type simulated struct {
	path string

	mu   sync.Mutex // one exchange at a time
	port *os.File   // nil after a failed exchange: closing a port drops what the kernel still holds for it
}

func openSimulated(path string) (*simulated, error) {
	s := &simulated{path: path}
	return s, s.open()
}

func (s *simulated) open() error {
	port, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := port.SetDeadline(time.Time{}); err != nil {
		return errors.Join(fmt.Errorf("%s is not a port that can be waited for: %w", s.path, err), port.Close())
	}
	s.port = port
	return nil
}

func (s *simulated) report(ctx context.Context, reportData [64]byte) (report, certTable []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if s.port == nil {
		if err := s.open(); err != nil {
			return nil, nil, fmt.Errorf("opening the simulated device again: %w", err)
		}
	}
	port := s.port
	if err := port.SetDeadline(time.Now().Add(simulatedTimeout)); err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = port.SetDeadline(time.Unix(1, 0)) }) // wakes a read under way
	report, certTable, err = exchange(port, reportData)
	stop()
	if err != nil {
		s.port = nil
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, nil, errors.Join(fmt.Errorf("asking the simulated processor for a report: %w", err), port.Close())
	}
	return report, certTable, nil
}

// exchange asks for a report. A guest that was reset, or gave up, may have left the beginning of a request on the line
// and answers under way. So each request is sent after as many zero bytes, which complete what was begun and are
// passed over otherwise; and answers that are not for this report data are passed over here.
func exchange(port io.ReadWriter, reportData [64]byte) (report, certTable []byte, err error) {
	request := simtee.MarshalRequest(simtee.Request{ReportData: reportData})
	if _, err := port.Write(append(make([]byte, simtee.RequestSize), request...)); err != nil {
		return nil, nil, err
	}
	var last simtee.Status
	for range simulatedAnswers {
		response, err := simtee.ReadResponse(port)
		if err != nil {
			return nil, nil, err
		}
		if last = response.Status; last == simtee.StatusFailed {
			break
		}
		if last == simtee.StatusOK && len(response.Report) == snp.ReportSize &&
			bytes.Equal(response.Report[reportDataOffset:][:len(reportData)], reportData[:]) {
			return response.Report, response.CertTable, nil
		}
	}
	return nil, nil, fmt.Errorf("no answer was for the report data asked for; the last had status %d", last)
}
