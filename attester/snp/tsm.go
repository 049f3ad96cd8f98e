// SPDX-License-Identifier: Apache-2.0

package snp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nacre-project/nacre/attest/snp"
)

// tsmDir is where the kernel makes reports for whoever makes a directory in it
// (Documentation/ABI/testing/configfs-tsm-report).
const tsmDir = "/sys/kernel/config/tsm/report"

// sevProvider is what the SEV-SNP guest driver calls itself.
const sevProvider = "sev_guest"

// tsm gets reports from configfs-tsm. The directory's "generation", by which a reader notices that somebody else wrote
// to it, is not looked at: the report data in each report is compared with what was asked for.
type tsm struct{ machine }

// present reports whether reports can be made here, and are SEV-SNP's.
func (t tsm) present() bool {
	entry, err := t.enter()
	if err != nil {
		return false
	}
	defer func() { _ = t.rmdir(entry) }() // it was only to look into
	return t.checkProvider(entry) == nil
}

// enter makes a directory of its own for one report, which no other process disturbs.
func (t tsm) enter() (string, error) {
	entry := filepath.Join(t.path(tsmDir), "nacre-"+rand.Text())
	return entry, t.mkdir(entry)
}

func (t tsm) checkProvider(entry string) error {
	b, err := readAll(filepath.Join(entry, "provider"), 64)
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(b)); got != sevProvider {
		return fmt.Errorf("the reports in %s are of %q, wanted %q", tsmDir, got, sevProvider)
	}
	return nil
}

func (t tsm) report(_ context.Context, reportData [64]byte) (report, certTable []byte, err error) {
	entry, err := t.enter()
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, t.rmdir(entry)) }()
	if err := t.checkProvider(entry); err != nil {
		return nil, nil, err
	}
	in, err := os.OpenFile(filepath.Join(entry, "inblob"), os.O_WRONLY, 0)
	if err != nil {
		return nil, nil, err
	}
	_, err = in.Write(reportData[:])
	if err := errors.Join(err, in.Close()); err != nil { // configfs takes the blob at close
		return nil, nil, err
	}
	if report, err = readAll(filepath.Join(entry, "outblob"), snp.ReportSize); err != nil {
		return nil, nil, err
	}
	certTable, err = readAll(filepath.Join(entry, "auxblob"), snp.MaxCertTableSize)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	return report, certTable, nil
}

// readAll reads a file of at most limit bytes.
func readAll(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("reading %s: it has more than %d bytes", path, limit)
	}
	return b, nil
}
