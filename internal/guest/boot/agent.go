// SPDX-License-Identifier: Apache-2.0

package boot

import "context"

// agentMain is the agent process. It returns its exit status.
func agentMain(context.Context) int { return 0 }
