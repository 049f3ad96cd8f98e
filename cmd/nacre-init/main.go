// SPDX-License-Identifier: Apache-2.0

// Command nacre-init is /init of the guest's initial RAM file system. See package early for what it does and trusts.
package main

import "github.com/nacre-project/nacre/internal/guestos/early"

func main() { early.Main() }
