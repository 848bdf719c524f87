# SPDX-License-Identifier: Apache-2.0
"""Code of functions that stands in a template (`ZipFile`), as the archive that it is run from.

Code that names it has the module cfn-response beside it, by which a function answers as a custom
resource: "cfn-response module", AWS CloudFormation User Guide.
"""

from __future__ import annotations

import io
import zipfile

PYTHON = '''\
"""What a custom resource answers to CloudFormation."""
import json
import urllib.request

SUCCESS = "SUCCESS"
FAILED = "FAILED"


def send(event, context, responseStatus, responseData, physicalResourceId=None, noEcho=False,
         reason=None):
    body = json.dumps({
        "Status": responseStatus,
        "Reason": reason or f"See the details in CloudWatch Log Stream: {context.log_stream_name}",
        "PhysicalResourceId": physicalResourceId or context.log_stream_name,
        "StackId": event["StackId"],
        "RequestId": event["RequestId"],
        "LogicalResourceId": event["LogicalResourceId"],
        "NoEcho": noEcho,
        "Data": responseData,
    }).encode()
    request = urllib.request.Request(event["ResponseURL"], body, {"Content-Type": ""}, method="PUT")
    try:
        with urllib.request.urlopen(request) as answer:
            print("Status code:", answer.status)
    except OSError as error:
        print("send(..) failed executing http.request(..):", error)
'''

NODE = """\
// What a custom resource answers to CloudFormation.
exports.SUCCESS = "SUCCESS";
exports.FAILED = "FAILED";

exports.send = (event, context, responseStatus, responseData, physicalResourceId, noEcho) => {
  const body = JSON.stringify({
    Status: responseStatus,
    Reason: `See the details in CloudWatch Log Stream: ${context.logStreamName}`,
    PhysicalResourceId: physicalResourceId || context.logStreamName,
    StackId: event.StackId,
    RequestId: event.RequestId,
    LogicalResourceId: event.LogicalResourceId,
    NoEcho: noEcho || false,
    Data: responseData,
  });
  const url = new URL(event.ResponseURL);
  const headers = { "content-type": "", "content-length": Buffer.byteLength(body) };
  return new Promise((resolve) => {
    const done = () => {
      if (context.done) context.done();
      resolve();
    };
    const request = require(url.protocol.slice(0, -1)).request(
      url,
      { method: "PUT", headers },
      (answer) => {
        answer.resume();
        answer.on("end", done);
      },
    );
    request.on("error", (error) => {
      console.log("send(..) failed executing http.request(..):", error.message);
      done();
    });
    request.end(body);
  });
};
"""


def archive(runtime: str, text: str) -> bytes:
    """The archive of a function whose code stands in the template."""
    if runtime.startswith("nodejs"):
        files = {"index.js": text}
        if "cfn-response" in text:
            files["node_modules/cfn-response/index.js"] = NODE
    else:
        files = {"index.py": text}
        if "cfnresponse" in text:
            files["cfnresponse.py"] = PYTHON
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for name, each in files.items():
            # The same code is the same archive, whenever it is made.
            opened.writestr(zipfile.ZipInfo(name), each)
    return content.getvalue()
