//! A server that answers as it is told to, and keeps what it was asked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use aws_sdk_dynamodb::Client;
use serde_json::{Value, json};

use crate::dynamodb_support::{client, options};
use crate::servers::TestResult;
use keyward::stores::{DynamoDbMetastore, DynamoDbOptions, StoreError};

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// What is asked for: `PutItem`.
    pub(crate) operation: String,
    /// Its first line and its headers, in lowercase.
    pub(crate) head: String,
    pub(crate) body: Value,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    status: u16,
    headers: String,
    body: String,
    is_cut: bool,
}

impl Answer {
    pub(crate) fn ok(body: &Value) -> Self {
        Self { status: 200, headers: String::new(), body: body.to_string(), is_cut: false }
    }

    /// An error as DynamoDB writes it.
    pub(crate) fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": message});
        Self { status, headers: String::new(), body: body.to_string(), is_cut: false }
    }

    /// What something else says.
    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self { status, headers: String::new(), body: body.to_owned(), is_cut: false }
    }

    /// The connection ends just before the answer does.
    pub(crate) fn cut(self) -> Self {
        Self { is_cut: true, ..self }
    }

    pub(crate) fn with_header(mut self, header: &str) -> Self {
        self.headers.push_str(&format!("{header}\r\n"));
        self
    }
}

/// The server, run by threads of its own.
pub(crate) struct Answers {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Answers {
    /// Starts a server that answers what `answer` returns.
    pub(crate) fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> TestResult<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let (address, asked) = (listener.local_addr()?, Arc::new(Mutex::new(Vec::new())));
        let (answer, seen) = (Arc::new(answer), Arc::clone(&asked));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                // A client that goes away ends its connection.
                thread::spawn(move || serve(stream, &*answer, &seen));
            }
        });
        Ok(Self { address, asked })
    }

    /// Starts a server that has a table and otherwise answers what `answer` returns.
    pub(crate) fn with_table(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> TestResult<Self> {
        Self::start(move |request| match request.operation.as_str() {
            "DescribeTable" => Answer::ok(&table(&json!({}))),
            _ => answer(request),
        })
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn client(&self) -> Client {
        client(&self.endpoint(), "us-west-2")
    }

    /// Connects as an application with a client of its own.
    pub(crate) async fn store(&self) -> Result<DynamoDbMetastore, StoreError> {
        self.store_with(options("EncryptionKey")).await
    }

    pub(crate) async fn store_with(&self, options: DynamoDbOptions) -> Result<DynamoDbMetastore, StoreError> {
        DynamoDbMetastore::from_client(self.client(), options).await
    }

    /// Returns what was asked.
    pub(crate) fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the names of what was asked.
    pub(crate) fn operations(&self) -> Vec<String> {
        self.asked().into_iter().map(|request| request.operation).collect()
    }
}

/// Returns what DescribeTable answers for a table as it should be, with these changes.
pub(crate) fn table(changes: &Value) -> Value {
    let mut table = json!({
        "TableName": "EncryptionKey",
        "TableStatus": "ACTIVE",
        "KeySchema": [{"AttributeName": "Id", "KeyType": "HASH"}, {"AttributeName": "Created", "KeyType": "RANGE"}],
        "AttributeDefinitions": [
            {"AttributeName": "Created", "AttributeType": "N"}, {"AttributeName": "Id", "AttributeType": "S"}
        ],
        "BillingModeSummary": {"BillingMode": "PAY_PER_REQUEST"},
        "DeletionProtectionEnabled": true
    });
    if let (Value::Object(table), Value::Object(changes)) = (&mut table, changes.clone()) {
        table.extend(changes);
    }
    json!({"Table": table})
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&Request) -> Answer, seen: &Mutex<Vec<Request>>) -> Option<()> {
    loop {
        let mut bytes = Vec::new();
        let (head, body) = loop {
            let mut more = [0; 4096];
            let read = stream.read(&mut more).ok().filter(|read| *read > 0)?;
            bytes.extend_from_slice(&more[..read]);
            let text = String::from_utf8_lossy(&bytes);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let head = head.to_ascii_lowercase();
            let size: usize = header(&head, "content-length")?.parse().ok()?;
            if body.len() >= size {
                break (head, body.to_owned());
            }
        };
        // The names of operations are told in their own case.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let operation = text.split_once("DynamoDB_20120810.").and_then(|(_, rest)| rest.lines().next());
        let request = Request {
            operation: operation.unwrap_or_default().trim().to_owned(),
            head,
            body: serde_json::from_str(&body).unwrap_or_default(),
        };
        let Answer { status, headers, body, is_cut } = answer(&request);
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        let length = body.len() + usize::from(is_cut);
        let head = format!("HTTP/1.1 {status} x\r\ncontent-type: application/x-amz-json-1.0\r\n{headers}");
        stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).ok()?;
        if is_cut {
            return None;
        }
    }
}

/// Returns the value of a header.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.split_once(": ").filter(|(found, _)| *found == name)).map(|(_, value)| value)
}
