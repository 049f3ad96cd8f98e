// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nacre-project/nacre/attest"
	"github.com/nacre-project/nacre/attester"
	"github.com/nacre-project/nacre/initdata"
)

// maxDrives caps how many drives are looked at.
const maxDrives = 128

// findInitData reads the init-data text from the one drive that carries it; nil when none does. The host chooses the
// drives and what is on them: a second carrier is refused, because which of the two was meant would be the host's
// choice. classBlock is /sys/class/block, dev is /dev.
func findInitData(classBlock, dev string) ([]byte, error) {
	entries, err := os.ReadDir(classBlock)
	if err != nil {
		return nil, refuse(CodeInitDataDevice, "looking for the init-data drive: %w", err)
	}
	var raw []byte
	found, looked := "", 0
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, "vd") && !strings.HasPrefix(name, "sd") {
			continue
		}
		if _, err := os.Stat(filepath.Join(classBlock, name, "partition")); err == nil {
			continue
		}
		if looked++; looked > maxDrives {
			return nil, refuse(CodeInitDataDevice, "more than %d drives", maxDrives)
		}
		text, err := readInitData(filepath.Join(dev, name))
		switch {
		case errors.Is(err, initdata.ErrNoMagic):
			continue
		case err != nil:
			return nil, refuse(CodeInitDataDevice, "drive %s: %w", name, err)
		case found != "":
			return nil, refuse(CodeInitDataDevice, "two drives carry init-data, %s and %s", found, name)
		}
		raw, found = text, name
	}
	return raw, nil
}

func readInitData(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := initdata.DecodeDevice(f)
	if err == nil && raw == nil {
		raw = []byte{} // an empty text is not the same as none
	}
	return raw, err
}

// bindInitData proves to us that the platform was launched with this init-data, or with none, and only then looks into
// it. It returns nil for none. Without a platform nothing can be bound, so there must be no init-data.
func bindInitData(ctx context.Context, platform attester.Attester, raw []byte) (*initdata.Data, error) {
	if platform == nil {
		if raw != nil {
			return nil, refuse(CodeInitDataUnbound, "there is init-data and no platform that could vouch for it: "+
				"run the pod without init-data, or on hardware that attests")
		}
		return nil, nil
	}
	var digest []byte
	if raw != nil {
		var err error
		if digest, err = initdata.Digest(raw); err != nil {
			return nil, refuse(CodeInitDataInvalid, "%w", err)
		}
	}
	if err := platform.BindInitData(ctx, digest); err != nil {
		if attest.CodeOf(err) == attest.CodeInitDataMismatch {
			return nil, &Refusal{Code: CodeInitDataMismatch, Err: err}
		}
		return nil, fmt.Errorf("binding the init-data: %w", err)
	}
	if raw == nil {
		return nil, nil
	}
	data, err := initdata.Parse(raw)
	if err != nil {
		return nil, refuse(CodeInitDataInvalid, "%w", err)
	}
	return data, nil
}
