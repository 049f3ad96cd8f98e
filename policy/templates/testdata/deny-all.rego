# SPDX-License-Identifier: Apache-2.0
#
# Release policy: nothing, to nobody. A new trustee has this one.
package policy

default allow := false
