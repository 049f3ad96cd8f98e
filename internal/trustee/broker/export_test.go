// SPDX-License-Identifier: Apache-2.0

package broker

// RouteInfo is a route as the walk over all of them sees it.
type RouteInfo struct {
	Method, Pattern string
	Admin           bool
}

// Routes lists every route.
func (b *Broker) Routes() (list []RouteInfo) {
	for _, r := range b.router.routes {
		list = append(list, RouteInfo{r.method, r.pattern, r.admin})
	}
	return list
}
