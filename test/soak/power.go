// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
)

func (r run) power(ctx context.Context, dir string, lying bool) error {
	return errors.ErrUnsupported
}
