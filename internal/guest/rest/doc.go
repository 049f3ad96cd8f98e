// SPDX-License-Identifier: Apache-2.0

// Package rest is the pod's way to its secrets: HTTP at 127.0.0.1:8006, in the network that its containers share.
//
//	GET /cdh/resource/<repository>/<type>/<tag>   200 application/octet-stream, the resource
//	GET /info                                     200 application/json, what guest this is
//
// A resource may be asked for by any method, as at the stock service; nothing takes a body. Everything else is refused:
// 400 for what is no resource's name, 403 for what the broker does not release, 404 for what it does not have, 502 when
// it does not answer, 503 when it or the guest cannot now. A refusal is a JSON object with the members code, message and
// request_id, under which the owner of the broker finds it.
//
// The service trusts those who can connect to it over the loopback device, which is whoever runs in the pod: all of
// them may read what the pod may read. It does not trust them with the guest itself: sizes, times and the number of
// connections are bounded. It turns away peers from elsewhere, and requests for another host than the loopback, which
// a browser in the pod would send for a web page that plays with its own name (DNS rebinding). It gives out neither
// evidence nor tokens.
package rest
