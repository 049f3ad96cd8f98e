// SPDX-License-Identifier: Apache-2.0

// Package upstream reads what the Confidential Containers project's trustee (KBS) keeps, for those who move from it to
// this one: its configuration file, which becomes this trustee's (Convert), and a store in its LocalFs layout, whose
// resources, reference values and policies are taken over (ReadLocalFs, Import). Facts: spec/trustee.md §2, §3.3.
//
// It trusts what it reads as far as an owner trusts his own old trustee: contents are taken as they are, names and
// sizes are checked, links are not followed. It never makes anything weaker without being told to by name, and never
// says a value of the old configuration, which may be a password, only where it stood.
package upstream
