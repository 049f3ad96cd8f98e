// SPDX-License-Identifier: Apache-2.0

package bench

import "fmt"

// trusteeURL is the trustee that init-data names, as guests would see it. No guest here asks it for anything.
const trusteeURL = "https://10.0.2.2:8080"

// sampleImage is the image of guests that are not started.
const sampleImage = "10.0.2.2:5000/bench/busybox@" +
	"sha256:3fbc632167424a6d997e74f52b878d7cc478225cffac6bc977eedfe51c7f4e79"

// podOutput is what the pod prints.
const podOutput = "here"

// podOf is the manifest of a pod that says one line and ends.
func podOf(image string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: bench
spec:
  runtimeClassName: nacre
  restartPolicy: Never
  containers:
  - name: app
    image: %s
    command: [echo, %s]
`, image, podOutput)
}
